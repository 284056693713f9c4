#include "store/create.h"

#include <algorithm>
#include <cstring>
#include <deque>
#include <set>
#include <string_view>
#include <utility>

#include "store/expert_counts.h"
#include "store/format.h"
#include "store/hdf5.h"
#include "store/measures.h"

namespace layerprobe::store {
namespace {

using hdf5::Element;

constexpr const char* kFix = "check the disk and the folder's permissions, or choose another --output";
constexpr std::uint64_t kAlignment = 4096;        // of O_DIRECT and of a page
constexpr std::uint64_t kAlignedFrom = 512;       // bytes; what is smaller lies where it falls
constexpr std::uint64_t kMetadataBlock = 65536;   // metadata lies together, in pieces of this
constexpr std::uint64_t kDatasetHeader = 1024;    // more than the metadata of one dataset takes
constexpr std::uint64_t kFixedMetadata = 262144;  // groups, their heaps, unused ends of metadata blocks

struct Planned {
  std::string path;  // "/group/name"
  Element element = Element::u8;
  std::size_t string_size = 0;  // not 0: fixed-length strings, and `element` means nothing
  std::vector<hsize_t> shape;
  std::string_view contents = {};  // empty: left as zeros
  std::string_view semantics = {};
};

/// Every dataset of a file, in the order of creation, and the strings that their contents view.
struct Plan {
  std::vector<Planned> datasets;
  std::deque<std::string> owned;
};

template <typename T>
std::string_view bytes_of(const std::vector<T>& values) {
  return {reinterpret_cast<const char*>(values.data()), values.size() * sizeof(T)};
}

/// Strings one after the other, and where each begins (one more at the end).
std::pair<std::string, std::vector<std::int64_t>> concatenated(std::span<const std::string> texts) {
  std::pair<std::string, std::vector<std::int64_t>> result = {"", {0}};
  for (const std::string& text : texts) {
    result.first += text;
    result.second.push_back(static_cast<std::int64_t>(result.first.size()));
  }
  return result;
}

void add_strings(Plan& plan, const char* path, std::span<const std::string> strings) {
  std::size_t size = 1;
  for (const std::string& string : strings) size = std::max(size, string.size());
  std::string padded(size * strings.size(), '\0');
  for (std::size_t i = 0; i < strings.size(); ++i) std::memcpy(&padded[i * size], strings[i].data(), strings[i].size());
  plan.owned.push_back(std::move(padded));
  plan.datasets.push_back(
      {.path = path, .string_size = size, .shape = {strings.size()}, .contents = plan.owned.back()});
}

void add_prompts(Plan& plan, const Layout& layout) {
  const Prompts& prompts = layout.prompts;
  const auto add = [&](const char* path, Element element, std::size_t length, std::string_view contents) {
    plan.datasets.push_back({.path = path, .element = element, .shape = {length}, .contents = contents});
  };
  add("/prompts/cu_seqlens", Element::i64, prompts.cu_seqlens.size(), bytes_of(prompts.cu_seqlens));
  add("/prompts/input_ids", Element::i32, prompts.input_ids.size(), bytes_of(prompts.input_ids));
  if (!prompts.texts.empty()) {
    auto [bytes, offsets] = concatenated(prompts.texts);
    plan.owned.emplace_back(bytes_of(offsets));
    add("/prompts/text_offsets", Element::i64, offsets.size(), plan.owned.back());
    plan.owned.push_back(std::move(bytes));
    add("/prompts/text_bytes", Element::u8, plan.owned.back().size(), plan.owned.back());
  }
  add("/rows/cu_rows", Element::i64, layout.rows.cu_rows.size(), bytes_of(layout.rows.cu_rows));
  add("/rows/position", Element::i32, layout.rows.position.size(), bytes_of(layout.rows.position));
}

void add_statistics(Plan& plan, const Layout& layout) {
  const hsize_t num_points = layout.points.size();
  const auto num_prompts = static_cast<hsize_t>(layout.prompts.num_prompts());
  std::vector<std::string> names, dtypes;
  std::vector<std::int64_t> widths;
  for (const auto& [point, stored] : layout.points) {
    names.push_back(point.name);
    dtypes.emplace_back(layerprobe::name_of(point.dtype));
    widths.push_back(point.width);
  }
  add_strings(plan, "/statistics/points", names);
  add_strings(plan, "/statistics/dtypes", dtypes);
  plan.owned.emplace_back(bytes_of(widths));
  plan.datasets.push_back(
      {.path = "/statistics/widths", .element = Element::i64, .shape = {num_points}, .contents = plan.owned.back()});
  plan.datasets.push_back({.path = "/completion", .element = Element::u8, .shape = {num_points, num_prompts}});
  for (const Measure& measure : kMeasures) {
    const Element element = measure.integer != nullptr ? Element::i64 : Element::f64;
    plan.datasets.push_back({.path = std::string("/statistics/per_prompt/") + measure.name,
                             .element = element,
                             .shape = {num_points, num_prompts}});
    plan.datasets.push_back(
        {.path = std::string("/statistics/") + measure.name, .element = element, .shape = {num_points}});
  }
  std::vector<std::string> with_experts;
  for (const Layout::Point& point : layout.points) {
    if (layout.num_experts > 0 && holds_experts(point)) with_experts.push_back(point.point.name);
  }
  if (!with_experts.empty()) {
    add_strings(plan, "/statistics/experts/points", with_experts);
    plan.datasets.push_back({.path = "/statistics/experts/counts",
                             .element = Element::i64,
                             .shape = {with_experts.size(), static_cast<hsize_t>(layout.num_experts)}});
  }
  plan.datasets.push_back({.path = "/statistics/mean", .element = Element::f64, .shape = {num_points}});
  plan.datasets.push_back({.path = "/statistics/std", .element = Element::f64, .shape = {num_points}});
}

Plan plan_of(const Layout& layout) {
  Plan plan;
  const auto num_rows = static_cast<hsize_t>(layout.rows.num_rows());
  const auto top_k = static_cast<hsize_t>(layout.top_k);
  add_prompts(plan, layout);
  add_statistics(plan, layout);
  if (top_k > 0) {
    plan.datasets.push_back({.path = "/topk/ids", .element = Element::i32, .shape = {num_rows, top_k}});
    plan.datasets.push_back({.path = "/topk/logits", .element = Element::f32, .shape = {num_rows, top_k}});
    plan.datasets.push_back({.path = "/topk/text_offsets", .element = Element::i64, .shape = {num_rows * top_k + 1}});
    plan.datasets.push_back(
        {.path = "/topk/text_bytes", .element = Element::u8, .shape = {num_rows * top_k * kTopKTextBytes}});
  }
  plan.datasets.push_back({.path = "/end/finished", .element = Element::u8, .shape = {1}});
  plan.datasets.push_back({.path = "/end/information", .string_size = kEndInformationBytes, .shape = {}});
  for (const auto& [point, stored] : layout.points) {
    if (!stored) continue;
    plan.datasets.push_back({.path = "/captures/" + point.name,
                             .element = hdf5::element_of(point.dtype),
                             .shape = {num_rows, static_cast<hsize_t>(point.width)},
                             .semantics = semantics_of(point.name)});
  }
  return plan;
}

std::size_t element_bytes(const Planned& dataset) {
  return dataset.string_size > 0 ? dataset.string_size : hdf5::size_of(dataset.element);
}

hdf5::Type element_type(const Planned& dataset) {
  return dataset.string_size > 0 ? hdf5::string_type(dataset.string_size) : hdf5::type_of(dataset.element);
}

/// Makes one file; `where_` is for the messages.
class Creator {
 public:
  explicit Creator(const std::filesystem::path& path) : where_(path.string()) {
    hdf5::prepare();
    const hdf5::Properties creation(made(H5Pcreate(H5P_FILE_CREATE)));
    made(H5Pset_obj_track_times(creation.get(), false));
    const hdf5::Properties access(made(H5Pcreate(H5P_FILE_ACCESS)));
    made(H5Pset_libver_bounds(access.get(), H5F_LIBVER_V18, H5F_LIBVER_V110));
    made(H5Pset_alignment(access.get(), kAlignedFrom, kAlignment));
    made(H5Pset_meta_block_size(access.get(), kMetadataBlock));
    made(H5Pset_file_locking(access.get(), false, true));  // the caller holds a lock of its own
    file_ = hdf5::File(made(H5Fcreate(where_.c_str(), H5F_ACC_TRUNC, creation.get(), access.get())));
  }

  void group(const char* path, bool in_order_of_creation) {
    const hdf5::Properties creation(made(H5Pcreate(H5P_GROUP_CREATE)));
    made(H5Pset_obj_track_times(creation.get(), false));
    if (in_order_of_creation) {
      made(H5Pset_link_creation_order(creation.get(), H5P_CRT_ORDER_TRACKED | H5P_CRT_ORDER_INDEXED));
    }
    hdf5::Group group(made(H5Gcreate2(file_.get(), path, H5P_DEFAULT, creation.get(), H5P_DEFAULT)));
    made(H5Gclose(group.release()));
  }

  void dataset(const Planned& planned) {
    const hdf5::Properties creation(made(H5Pcreate(H5P_DATASET_CREATE)));
    made(H5Pset_obj_track_times(creation.get(), false));
    made(H5Pset_layout(creation.get(), H5D_CONTIGUOUS));
    made(H5Pset_alloc_time(creation.get(), H5D_ALLOC_TIME_EARLY));
    made(H5Pset_fill_time(creation.get(), H5D_FILL_TIME_NEVER));
    const hdf5::Type type = element_type(planned);
    const auto rank = static_cast<int>(planned.shape.size());
    const hdf5::Space space(
        made(rank == 0 ? H5Screate(H5S_SCALAR) : H5Screate_simple(rank, planned.shape.data(), nullptr)));
    hdf5::Dataset dataset(made(H5Dcreate2(file_.get(), planned.path.c_str(), type.get(), space.get(), H5P_DEFAULT,
                                          creation.get(), H5P_DEFAULT)));
    if (!planned.contents.empty()) {
      made(H5Dwrite(dataset.get(), type.get(), H5S_ALL, H5S_ALL, H5P_DEFAULT, planned.contents.data()));
    }
    if (!planned.semantics.empty()) attribute(dataset.get(), "semantics", std::string(planned.semantics));
    made(H5Dclose(dataset.release()));  // which may be when it is written
  }

  void attribute(hid_t object, const std::string& name, const Attribute& value) {
    if (const auto* integer = std::get_if<std::int64_t>(&value)) {
      attribute(object, name, hdf5::type_of(Element::i64), integer);
    } else if (const auto* real = std::get_if<double>(&value)) {
      attribute(object, name, hdf5::type_of(Element::f64), real);
    } else {
      const auto& string = std::get<std::string>(value);
      attribute(object, name, hdf5::string_type(string.size()), string.c_str());
    }
  }

  hid_t root() const { return file_.get(); }

  void close() { made(H5Fclose(file_.release())); }

 private:
  hid_t made(hid_t result) const { return hdf5::check(result, where_, kFix, ErrorKind::resource); }

  void attribute(hid_t object, const std::string& name, const hdf5::Type& type, const void* value) {
    const hdf5::Space space(made(H5Screate(H5S_SCALAR)));
    hdf5::Attribute created(made(H5Acreate2(object, name.c_str(), type.get(), space.get(), H5P_DEFAULT, H5P_DEFAULT)));
    made(H5Awrite(created.get(), type.get(), value));
    made(H5Aclose(created.release()));
  }

  std::string where_;
  hdf5::File file_;
};

std::uint64_t add_capped(std::uint64_t a, std::uint64_t b) { return a > UINT64_MAX - b ? UINT64_MAX : a + b; }

std::uint64_t multiply_capped(std::uint64_t a, std::uint64_t b) {
  return b != 0 && a > UINT64_MAX / b ? UINT64_MAX : a * b;
}

}  // namespace

void expect_consistent(const Layout& layout) {
  const Prompts& prompts = layout.prompts;
  const CapturedRows& rows = layout.rows;
  expect(!prompts.cu_seqlens.empty() && prompts.cu_seqlens.front() == 0, "cu_seqlens begins with 0");
  expect(std::is_sorted(prompts.cu_seqlens.begin(), prompts.cu_seqlens.end()), "cu_seqlens never falls");
  expect(prompts.input_ids.empty() || std::ssize(prompts.input_ids) == prompts.num_tokens(),
         "there is a token id for every token, or none");
  expect(prompts.texts.empty() || std::ssize(prompts.texts) == prompts.num_prompts(),
         "there is a text for every prompt, or none");
  expect(rows.cu_rows.size() == prompts.cu_seqlens.size() && rows.cu_rows.front() == 0, "every prompt has its rows");
  expect(std::is_sorted(rows.cu_rows.begin(), rows.cu_rows.end()), "cu_rows never falls");
  expect(std::ssize(rows.position) == rows.num_rows(), "every row has its position");
  const bool has_means = std::find(rows.position.begin(), rows.position.end(), -1) != rows.position.end();
  std::set<std::string_view> names;
  for (const auto& [point, stored] : layout.points) {
    expect(!point.name.empty() && point.name != "." &&
               point.name.find_first_of(std::string_view("/\0", 2)) == std::string::npos,
           "a point's name can be a link's name");
    expect(names.insert(point.name).second, "a point is listed once");
    expect(point.width > 0, "a point has a width");
    expect(!stored || !has_means || point.dtype == Dtype::f32, "means are stored as f32");
  }
  for (const auto& [name, value] : layout.identity) {
    expect(!layout.information.contains(name), "an attribute is identity or information, not both");
    expect(name != "format_version", "format_version is the writer's own");
  }
}

std::uint64_t planned_bytes(const Layout& layout) {
  std::uint64_t sum = kFixedMetadata;
  for (const Attributes* attributes : {&layout.identity, &layout.information}) {
    for (const auto& [name, value] : *attributes) {
      const auto* string = std::get_if<std::string>(&value);
      sum += 4 * (name.size() + (string != nullptr ? string->size() : 0)) + kDatasetHeader;
    }
  }
  for (const Planned& dataset : plan_of(layout).datasets) {
    std::uint64_t bytes = element_bytes(dataset);
    for (const hsize_t extent : dataset.shape) bytes = multiply_capped(bytes, extent);
    sum = add_capped(sum, bytes);
    sum = add_capped(sum, kDatasetHeader + 4 * dataset.path.size() + (bytes >= kAlignedFrom ? kAlignment : 0));
  }
  return sum;
}

void create_file(const std::filesystem::path& path, const Layout& layout) {
  Creator creator(path);
  for (const char* group : {"/prompts", "/rows", "/statistics", "/statistics/per_prompt", "/end"}) {
    creator.group(group, false);
  }
  if (layout.num_experts > 0 && std::ranges::any_of(layout.points, holds_experts)) {
    creator.group("/statistics/experts", false);
  }
  if (layout.top_k > 0) creator.group("/topk", false);
  creator.group("/captures", true);
  creator.attribute(creator.root(), "format_version", Attribute{std::int64_t{kFormatVersion}});
  for (const Attributes* attributes : {&layout.identity, &layout.information}) {
    for (const auto& [name, value] : *attributes) creator.attribute(creator.root(), name, value);
  }
  for (const Planned& dataset : plan_of(layout).datasets) creator.dataset(dataset);
  creator.close();
}

}  // namespace layerprobe::store
