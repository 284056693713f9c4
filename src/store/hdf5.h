#pragma once

#include <hdf5.h>

#include <cstddef>
#include <cstdint>
#include <string>

#include "base/error.h"
#include "base/handle.h"
#include "store/hdf5_element.h"

namespace layerprobe::store::hdf5 {

using File = Handle<hid_t, H5Fclose, H5I_INVALID_HID>;
using Group = Handle<hid_t, H5Gclose, H5I_INVALID_HID>;
using Dataset = Handle<hid_t, H5Dclose, H5I_INVALID_HID>;
using Attribute = Handle<hid_t, H5Aclose, H5I_INVALID_HID>;
using Space = Handle<hid_t, H5Sclose, H5I_INVALID_HID>;
using Type = Handle<hid_t, H5Tclose, H5I_INVALID_HID>;
using Properties = Handle<hid_t, H5Pclose, H5I_INVALID_HID>;

/// Keeps HDF5 from printing its error stack, from loading plug-ins on a file's word, and from closing at exit what it
/// failed to close before, which crashes (1.10.8). Before any other HDF5 call; more than once does no harm.
void prepare();

/// Returns what an HDF5 call returned, or throws with HDF5's own innermost words. `where` is "<file>" or
/// "<file>: <dataset>"; `fix` is what this caller would have the user do.
hid_t check(hid_t result, const std::string& where, const char* fix, ErrorKind kind = ErrorKind::input);

/// The type on disk.
Type type_of(Element element);
/// A string of `size` bytes, at least 1, UTF-8, padded with NULs.
Type string_type(std::size_t size);

}  // namespace layerprobe::store::hdf5
