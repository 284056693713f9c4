#include "weights/gguf_files.h"

#include <algorithm>
#include <cctype>
#include <iomanip>
#include <iterator>
#include <sstream>
#include <string>
#include <system_error>
#include <utility>

#include "base/error.h"
#include "base/text.h"

namespace layerprobe::weights {
namespace {

constexpr std::int64_t kMaxParts = 99'999;        // five digits
constexpr std::size_t kSuffixLength = 6 + 4 + 5;  // "-00001-of-00003"

Error refuse(const std::filesystem::path& path, std::string what, std::string fix) {
  return Error({.kind = ErrorKind::input, .where = path.string(), .what = std::move(what), .fix = std::move(fix)});
}

std::string part_suffix(std::int64_t part, std::int64_t count) {
  std::ostringstream out;
  out << std::setfill('0') << '-' << std::setw(5) << part << "-of-" << std::setw(5) << count;
  return out.str();
}

/// The key's value; 0 when it is absent.
std::int64_t count_of(const File& file, const GgufHeader& header, const char* key) {
  const auto found = header.values.find(key);
  if (found == header.values.end()) return 0;
  if (!found->second.is_integer() || found->second.integer() < 0) {
    throw refuse(file.path(), text("key ", key, " is ", found->second.dump().substr(0, 40), "; a count is due"),
                 "the file is damaged; fetch it again");
  }
  return found->second.integer();
}

void append_part(const std::filesystem::path& path, std::int64_t part, std::int64_t count, GgufFiles& out) {
  std::error_code ignored;
  if (!std::filesystem::exists(path, ignored)) {
    throw refuse(path, text("is missing: part ", part + 1, " of ", count), "fetch all parts into one folder");
  }
  File file = File::open_for_reading(path);
  GgufHeader header = read_gguf_header(file, static_cast<int>(part));
  if (count_of(file, header, "split.no") != part || count_of(file, header, "split.count") != count) {
    throw refuse(path,
                 text("says it is part ", count_of(file, header, "split.no") + 1, " of ",
                      count_of(file, header, "split.count"), "; its name says ", part + 1, " of ", count),
                 "fetch all parts again");
  }
  out.tensors.insert(out.tensors.end(), std::make_move_iterator(header.tensors.begin()),
                     std::make_move_iterator(header.tensors.end()));
  out.files.push_back(std::move(file));
}

}  // namespace

std::string gguf_model_name(const std::filesystem::path& path) {
  std::string stem = path.stem().string();
  if (stem.size() <= kSuffixLength) return stem;
  std::string shape = stem.substr(stem.size() - kSuffixLength);
  std::replace_if(
      shape.begin(), shape.end(), [](unsigned char c) { return std::isdigit(c) != 0; }, '9');
  return shape == "-99999-of-99999" ? stem.substr(0, stem.size() - kSuffixLength) : stem;
}

GgufFiles open_gguf_files(const std::filesystem::path& path) {
  GgufFiles out;
  out.files.push_back(File::open_for_reading(path));
  const File& first = out.files.front();
  out.header = read_gguf_header(first, 0);
  out.tensors = std::move(out.header.tensors);
  out.header.tensors.clear();
  const std::int64_t count = count_of(first, out.header, "split.count");
  if (count <= 1) return out;

  const std::string name = gguf_model_name(path);
  const std::int64_t number = count_of(first, out.header, "split.no");
  if (count > kMaxParts || path.stem() != name + part_suffix(number + 1, count)) {
    throw refuse(path, text("says it is part ", number + 1, " of ", count, ", but is not named so"),
                 text("name the parts ...", part_suffix(1, 3), ".gguf as they were published"));
  }
  if (number != 0) {
    throw refuse(path, text("is part ", number + 1, " of ", count),
                 text("name the first: ", name, part_suffix(1, count), ".gguf"));
  }
  const std::int64_t num_tensors = count_of(first, out.header, "split.tensors.count");
  for (std::int64_t part = 1; part < count; ++part) {
    append_part(path.parent_path() / (name + part_suffix(part + 1, count) + ".gguf"), part, count, out);
  }
  if (num_tensors != 0 && num_tensors != static_cast<std::int64_t>(out.tensors.size())) {
    throw refuse(path, text("says that all parts hold ", num_tensors, " tensors; they hold ", out.tensors.size()),
                 "fetch all parts again");
  }
  return out;
}

}  // namespace layerprobe::weights
