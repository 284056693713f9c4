#include "runtime/import_arrays.h"

#include <algorithm>
#include <cstring>
#include <limits>
#include <optional>
#include <span>
#include <utility>

#include "base/error.h"
#include "base/text.h"
#include "runtime/array_names.h"
#include "runtime/npy.h"
#include "weights/safetensors.h"

namespace layerprobe::runtime {
namespace {

namespace fs = std::filesystem;

constexpr std::size_t kMaxArrays = 10'000'000;
constexpr std::uint64_t kPieceBytes = 4 << 20;

std::optional<Storage> storage_of_npy(const std::string& type) {
  if (type == "f8") return Storage::f64;
  if (type == "f4") return Storage::f32;
  if (type == "f2") return Storage::f16;
  if (type == "i4") return Storage::i32;
  if (type == "i8") return Storage::i64;
  if (type == "V2") return Storage::bf16;  // numpy has no name for ml_dtypes' bfloat16
  return std::nullopt;
}

void add_npy(const fs::path& path, const std::string& name, std::vector<Array>& out) {
  const File file = File::open_for_reading(path);
  const NpyHeader header = read_npy_header(file, "save it again with numpy.save of numpy.ascontiguousarray(values)");
  const std::optional<Storage> storage = storage_of_npy(header.type);
  if (!storage) {
    throw bad_input(
        path.string(),
        text("holds numpy's '", header.type, "'; f2, f4, f8, i4, i8 and V2 (ml_dtypes' bfloat16) are imported"),
        "save float32: values of bfloat16 lose nothing by it");
  }
  out.push_back({.file = path,
                 .name = name,
                 .where = path.string(),
                 .storage = *storage,
                 .shape = header.shape,
                 .offset = header.offset});
}

void add_safetensors(const fs::path& path, const std::string& name, std::vector<Array>& out) {
  const File file = File::open_for_reading(path);
  for (const weights::TensorInfo& tensor : weights::read_safetensors_header(file, 0)) {
    out.push_back({.file = path,
                   .name = text(name, "/", tensor.name),
                   .where = text(path.string(), ": ", tensor.name),
                   .storage = tensor.storage,
                   .shape = tensor.shape,
                   .offset = tensor.offset});
  }
}

}  // namespace

std::vector<Array> arrays_of(const std::vector<std::string>& sources) {
  std::vector<Array> out;
  const auto add = [&](const fs::path& path, const fs::path& folder) {
    const std::string name = path.lexically_relative(folder).replace_extension().generic_string();
    if (path.extension() == ".npy") add_npy(path, name, out);
    if (path.extension() == ".safetensors") add_safetensors(path, name, out);
    if (out.size() > kMaxArrays) {
      throw bad_input(folder.string(), text("holds over ", kMaxArrays, " arrays"), "import a part of them");
    }
  };
  for (const std::string& source : sources) {
    std::error_code problem;
    const fs::file_status status = fs::status(source, problem);
    if (!fs::exists(status)) throw bad_input(source, "no such file or folder", "check the path");
    if (!fs::is_directory(status)) {
      const std::string ending = fs::path(source).extension().string();
      if (ending != ".npy" && ending != ".safetensors") {
        throw bad_input(source, "is neither .npy nor .safetensors", "name such files, or a folder with them");
      }
      add(source, fs::path(source).parent_path());
      continue;
    }
    std::vector<fs::path> files;
    for (auto at = fs::recursive_directory_iterator(source, problem); at != fs::end(at); at.increment(problem)) {
      if (problem) break;
      if (at->is_regular_file(problem)) files.push_back(at->path());
    }
    if (problem) throw bad_input(source, "cannot be listed: " + problem.message(), "see whether it may be read");
    std::ranges::sort(files, [](const fs::path& a, const fs::path& b) { return comes_before(a.native(), b.native()); });
    for (const fs::path& path : files) add(path, source);
  }
  if (out.empty()) {
    throw bad_input(join(sources, ", "), "holds no .npy and no .safetensors file", "name the folder that has them");
  }
  return out;
}

void set_rows(Array& array) {
  std::vector<std::int64_t> shape = array.shape;
  while (shape.size() > 2 && shape.front() == 1) shape.erase(shape.begin());
  if (shape.size() == 1) shape.insert(shape.begin(), 1);
  if (shape.size() != 2 || shape[0] < 1 || shape[1] < 1) {
    throw bad_input(array.where, text("has shape ", shape_text(array.shape), "; expected [tokens, width]"),
                    "save each prompt by itself, without padding");
  }
  array.rows = shape[0];
  array.width = shape[1];
  array.row_stride = static_cast<std::uint64_t>(array.width) * array.element_bytes();
}

Dtype kept_as(const Array& array) {
  switch (array.storage) {
    case Storage::f64:
      return Dtype::f64;
    case Storage::f32:
      return Dtype::f32;
    case Storage::f16:
      return Dtype::f16;
    case Storage::bf16:
      return Dtype::bf16;
    case Storage::i64:
    case Storage::i32:
      return Dtype::i32;
    default:
      throw bad_input(array.where,
                      text("holds ", name_of(array.storage), "; F16, BF16, F32, F64, I32 and I64 are imported"),
                      "convert it first; to float32 nothing of a bfloat16 is lost");
  }
}

std::vector<std::int32_t> ids_of(const Array& array) {
  if (array.storage != Storage::i64 && array.storage != Storage::i32) {
    throw bad_input(array.where, text("holds ", name_of(array.storage), "; token ids are I32 or I64"),
                    "save int64 ids");
  }
  std::int64_t count = 1;
  for (const std::int64_t size : array.shape) count *= size;
  std::vector<std::byte> bytes(static_cast<std::size_t>(count) * array.element_bytes());
  File::open_for_reading(array.file).read_at(array.offset, bytes);
  std::vector<std::int32_t> ids;
  for (std::int64_t i = 0; i < count; ++i) {
    std::int64_t id = 0;
    if (array.storage == Storage::i64) {
      std::memcpy(&id, bytes.data() + static_cast<std::size_t>(i) * sizeof id, sizeof id);
    } else {
      std::int32_t narrow = 0;
      std::memcpy(&narrow, bytes.data() + static_cast<std::size_t>(i) * sizeof narrow, sizeof narrow);
      id = narrow;
    }
    if (id < 0 || id > std::numeric_limits<std::int32_t>::max()) {
      throw bad_input(array.where, text("element ", i, " is ", id, "; expected a token id, 0 to 2^31 - 1"),
                      "save the ids of the tokens themselves");
    }
    ids.push_back(static_cast<std::int32_t>(id));
  }
  return ids;
}

void read_rows(const Array& array, const File& file, std::int64_t first, std::int64_t count,
               std::vector<std::byte>& out) {
  const std::size_t row_bytes = static_cast<std::size_t>(array.width) * array.element_bytes();
  out.resize(static_cast<std::size_t>(count) * row_bytes);
  const std::uint64_t begin = array.offset + static_cast<std::uint64_t>(first) * array.row_stride;
  if (array.row_stride == row_bytes) {
    file.read_at(begin, out);
  } else {
    for (std::size_t row = 0; row < static_cast<std::size_t>(count); ++row) {
      file.read_at(begin + row * array.row_stride, std::span(out).subspan(row * row_bytes, row_bytes));
    }
  }
  if (array.storage != Storage::i64) return;
  for (std::size_t i = 0; i < out.size() / 8; ++i) {
    std::int64_t wide = 0;
    std::memcpy(&wide, out.data() + i * 8, 8);
    const auto narrow = static_cast<std::int32_t>(wide);
    if (narrow != wide) {
      throw bad_input(
          array.where,
          text("row ", first + static_cast<std::int64_t>(i) / array.width, " holds ", wide, ", which is no int32"),
          "integers are kept as int32; leave this array out");
    }
    std::memcpy(out.data() + i * 4, &narrow, 4);
  }
  out.resize(out.size() / 2);
}

std::int64_t rows_at_once(const Array& array) {
  const auto row_bytes = static_cast<std::uint64_t>(array.width) * array.element_bytes();
  return static_cast<std::int64_t>(std::max<std::uint64_t>(1, kPieceBytes / row_bytes));
}

void check_integers(const Array& array) {
  if (array.storage != Storage::i64) return;
  const File file = File::open_for_reading(array.file);
  std::vector<std::byte> piece;
  for (std::int64_t row = 0; row < array.rows; row += rows_at_once(array)) {
    read_rows(array, file, row, std::min(rows_at_once(array), array.rows - row), piece);
  }
}

}  // namespace layerprobe::runtime
