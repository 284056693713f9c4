#include "store/hdf5.h"

#include <algorithm>
#include <bit>

namespace layerprobe::store::hdf5 {
namespace {

static_assert(std::endian::native == std::endian::little, "values go to the file as they lie in memory");

herr_t keep_innermost(unsigned position, const H5E_error2_t* error, void* words) {
  if (position == 0 && error->desc != nullptr) *static_cast<std::string*>(words) = error->desc;
  return 0;
}

/// A 16-bit float. The fields are set before the size shrinks: no step on the way is an invalid type.
Type float16_type(std::size_t exponent_bits, std::size_t bias) {
  Type type(H5Tcopy(H5T_IEEE_F32LE));
  const std::size_t mantissa_bits = 15 - exponent_bits;
  const bool made = H5Tset_fields(type.get(), 15, mantissa_bits, exponent_bits, 0, mantissa_bits) >= 0 &&
                    H5Tset_offset(type.get(), 0) >= 0 && H5Tset_precision(type.get(), 16) >= 0 &&
                    H5Tset_size(type.get(), 2) >= 0 && H5Tset_ebias(type.get(), bias) >= 0;
  expect(made, "HDF5 makes 16-bit float types");
  return type;
}

}  // namespace

void prepare() {
  // Before any other call: everything is closed by us, and at the program's end the library would go through files that
  // a failing disk kept it from closing, which crashes it.
  [[maybe_unused]] static const herr_t once = H5dont_atexit();
  H5Eset_auto2(H5E_DEFAULT, nullptr, nullptr);
  H5PLset_loading_state(0);
}

hid_t check(hid_t result, const std::string& where, const char* fix, ErrorKind kind) {
  if (result >= 0) return result;
  std::string words = "HDF5 gives no reason";
  H5Ewalk2(H5E_DEFAULT, H5E_WALK_UPWARD, keep_innermost, &words);
  throw Error({.kind = kind, .where = where, .what = "HDF5: " + words, .fix = fix});
}

Type type_of(Element element) {
  switch (element) {
    case Element::u8:
      return Type(H5Tcopy(H5T_STD_U8LE));
    case Element::i32:
      return Type(H5Tcopy(H5T_STD_I32LE));
    case Element::i64:
      return Type(H5Tcopy(H5T_STD_I64LE));
    case Element::f16:
      return float16_type(5, 15);
    case Element::bf16:
      return float16_type(8, 127);
    case Element::f32:
      return Type(H5Tcopy(H5T_IEEE_F32LE));
    case Element::f64:
      return Type(H5Tcopy(H5T_IEEE_F64LE));
  }
  return {};
}

Type string_type(std::size_t size) {
  Type type(H5Tcopy(H5T_C_S1));
  const bool made = H5Tset_size(type.get(), std::max<std::size_t>(size, 1)) >= 0 &&
                    H5Tset_strpad(type.get(), H5T_STR_NULLPAD) >= 0 && H5Tset_cset(type.get(), H5T_CSET_UTF8) >= 0;
  expect(made, "HDF5 makes string types");
  return type;
}

}  // namespace layerprobe::store::hdf5
