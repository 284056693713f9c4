#include "store/hdf5_heap.h"

#include <algorithm>
#include <bit>

#include "base/text.h"

namespace layerprobe::store::hdf5 {
namespace {

constexpr std::uint64_t kMaxNodeBytes = 1 << 20;  // HDF5 makes them of 512 and 2048
constexpr std::uint64_t kMaxDepth = 16;
constexpr std::uint64_t kMaxWidth = 1024;           // HDF5 makes it 4
constexpr std::uint64_t kMaxBlockBytes = 16 << 20;  // direct; HDF5 makes them up to 64 KiB
constexpr unsigned kHasBlockChecksums = 2, kHugeTree = 1;

class Tree {
 public:
  Tree(Blocks& blocks, std::uint64_t address, unsigned type) : blocks_(blocks), type_(type) {
    Fields fields = blocks.block(address, 38, "BTHD", "B-tree");
    fields.expect_version(0, "header");
    if (const unsigned found = fields.byte(); found != type) {
      fields.refuse(text("is of type ", found, " where ", type, " is expected"));
    }
    node_bytes_ = fields.integer(4);
    record_bytes_ = fields.integer(2);
    depth_ = fields.integer(2);
    fields.skip(2);  // when nodes are split and merged
    root_ = fields.address();
    num_root_records_ = fields.integer(2);
    const bool possible = record_bytes_ > 0 && node_bytes_ >= kPrefixBytes + record_bytes_ && depth_ <= kMaxDepth &&
                          node_bytes_ <= kMaxNodeBytes;
    if (!possible) {
      fields.refuse(text("has records of ", record_bytes_, " bytes in nodes of ", node_bytes_, ", ", depth_, " deep"));
    }
    // How many records a node of each height holds, and how many are below it: the bytes that counts of them take.
    std::uint64_t most_below = (node_bytes_ - kPrefixBytes) / record_bytes_;
    count_bytes_ = bytes_for(most_below);
    total_bytes_ = {0};
    for (std::uint64_t height = 1; height <= depth_; ++height) {
      const std::uint64_t pointer_bytes = 8 + count_bytes_ + total_bytes_.back();
      if (node_bytes_ < kPrefixBytes + pointer_bytes) fields.refuse("has nodes too small for its depth");
      const std::uint64_t most = (node_bytes_ - kPrefixBytes - pointer_bytes) / (record_bytes_ + pointer_bytes);
      if (most_below > (std::uint64_t{1} << 62) / (most + 2)) fields.refuse(text("is ", depth_, " deep"));
      most_below = (most + 1) * most_below + most;
      total_bytes_.push_back(bytes_for(most_below));
    }
  }

  std::vector<std::string> records() {
    if (root_ != kNowhere) add_node(root_, num_root_records_, depth_);
    return std::move(records_);
  }

 private:
  static constexpr std::uint64_t kPrefixBytes = 10;  // signature, version, type, checksum

  void add_node(std::uint64_t address, std::uint64_t num_records, std::uint64_t height) {
    const std::uint64_t pointer_bytes = height == 0 ? 0 : 8 + count_bytes_ + total_bytes_[height - 1];
    const std::uint64_t bytes =
        kPrefixBytes + num_records * record_bytes_ + (height == 0 ? 0 : num_records + 1) * pointer_bytes;
    Fields fields = blocks_.block(address, bytes, height == 0 ? "BTLF" : "BTIN", "B-tree node");
    fields.expect_version(0, "header");
    if (fields.byte() != type_) fields.refuse("is of another tree's type");
    std::vector<std::string> own;
    for (std::uint64_t i = 0; i < num_records; ++i) own.push_back(fields.text(record_bytes_));
    for (std::uint64_t i = 0; i <= num_records; ++i) {
      if (height > 0) {
        const std::uint64_t child = fields.address();
        const std::uint64_t count = fields.integer(count_bytes_);
        fields.skip(total_bytes_[height - 1]);
        add_node(child, count, height - 1);
      }
      if (i < num_records) records_.push_back(std::move(own[i]));
    }
  }

  Blocks& blocks_;
  unsigned type_;
  std::uint64_t node_bytes_ = 0, record_bytes_ = 0, depth_ = 0, root_ = kNowhere, num_root_records_ = 0;
  std::size_t count_bytes_ = 0;
  std::vector<std::size_t> total_bytes_;  // by height
  std::vector<std::string> records_;
};

std::uint64_t log2(std::uint64_t power) { return static_cast<std::uint64_t>(std::bit_width(power)) - 1; }

}  // namespace

std::vector<std::string> records_of_tree(Blocks& blocks, std::uint64_t address, unsigned type) {
  return Tree(blocks, address, type).records();
}

FractalHeap::FractalHeap(Blocks& blocks, std::uint64_t address)
    : blocks_(blocks), where_(blocks.where("fractal heap", address)) {
  Fields fields = blocks.block(address, 146, "FRHP", "fractal heap");
  fields.expect_version(0, "header");
  id_bytes_ = fields.integer(2);
  if (fields.integer(2) != 0) fields.refuse("has a filter; none is read");
  flags_ = fields.byte();
  max_managed_bytes_ = fields.integer(4);
  fields.skip(8);  // the next huge object's ID
  huge_tree_ = fields.address();
  fields.skip(10 * 8);  // free space, and counts
  width_ = fields.integer(2);
  first_block_bytes_ = fields.integer(8);
  max_direct_bytes_ = fields.integer(8);
  const std::uint64_t heap_bits = fields.integer(2);
  fields.skip(2);  // rows at first
  root_ = fields.address();
  root_rows_ = fields.integer(2);
  offset_bytes_ = (heap_bits + 7) / 8;
  const bool possible = std::has_single_bit(width_) && width_ <= kMaxWidth && std::has_single_bit(first_block_bytes_) &&
                        std::has_single_bit(max_direct_bytes_) && first_block_bytes_ <= max_direct_bytes_ &&
                        max_direct_bytes_ <= kMaxBlockBytes && heap_bits <= 48 && offset_bytes_ > 0 &&
                        first_block_bytes_ * width_ <= max_direct_bytes_ && root_rows_ <= 64;
  if (!possible) {
    fields.refuse(text("has blocks of ", first_block_bytes_, " to ", max_direct_bytes_, " bytes, ", width_,
                       " in a row, in 2^", heap_bits, " bytes"));
  }
}

Fields FractalHeap::object(std::string_view id) {
  Fields fields(std::string(id.substr(0, id_bytes_)), where_);
  const unsigned kind = fields.byte() >> 4;  // version 0, then the kind
  if (kind == 1) return Fields(huge(fields.integer(std::min<std::size_t>(fields.left(), 8))), where_);
  if (kind != 0) fields.refuse(text("has an object of kind ", kind, "; managed and huge ones are read"));
  const std::uint64_t offset = fields.integer(offset_bytes_);
  const std::size_t length_bytes = std::min((log2(max_direct_bytes_) + 7) / 8, bytes_for(max_managed_bytes_));
  return Fields(managed(offset, fields.integer(length_bytes)), where_);
}

std::string FractalHeap::managed(std::uint64_t offset, std::uint64_t bytes) {
  const Place place = direct_block_of(offset);
  auto found = direct_.find(place.address);
  if (found == direct_.end()) {
    const std::size_t header_bytes = 4 + 1 + 8 + offset_bytes_;
    std::string block = (flags_ & kHasBlockChecksums) != 0
                            ? blocks_.checked_inside(place.address, place.bytes, header_bytes, "heap block")
                            : blocks_.plain(place.address, place.bytes, "heap block");
    if (!block.starts_with("FHDB")) Fields({}, where_).refuse("has a block whose first bytes are others");
    found = direct_.emplace(place.address, std::move(block)).first;
  }
  const std::string& block = found->second;
  if (offset > block.size() || bytes > block.size() - offset)
    Fields({}, where_).refuse("has an object beyond its block");
  return block.substr(offset, bytes);
}

FractalHeap::Place FractalHeap::direct_block_of(std::uint64_t& offset) {
  if (root_rows_ == 0) return {.address = root_, .bytes = first_block_bytes_};
  std::uint64_t address = root_, num_rows = root_rows_;
  const std::uint64_t first_row_bytes = first_block_bytes_ * width_;
  for (;;) {
    // Row 0 and 1 have blocks of the first size; those of each further row are twice as large.
    const std::uint64_t row = offset < first_row_bytes ? 0 : log2(offset) - log2(first_row_bytes) + 1;
    const std::uint64_t block_bytes = row == 0 ? first_block_bytes_ : first_block_bytes_ << (row - 1);
    const std::uint64_t column = (offset - (row == 0 ? 0 : first_row_bytes << (row - 1))) / block_bytes;
    if (row >= num_rows) Fields({}, where_).refuse(text("has no byte ", offset));
    address = child_of(address, num_rows, row * width_ + column);
    offset %= block_bytes;
    if (block_bytes <= max_direct_bytes_) return {.address = address, .bytes = block_bytes};
    num_rows = log2(block_bytes) - log2(first_row_bytes) + 1;
  }
}

std::uint64_t FractalHeap::child_of(std::uint64_t address, std::uint64_t num_rows, std::uint64_t child) {
  auto found = indirect_.find(address);
  if (found == indirect_.end()) {
    Fields fields = blocks_.block(address, 4 + 1 + 8 + offset_bytes_ + num_rows * width_ * 8 + 4, "FHIB", "heap block");
    fields.skip(1 + 8 + offset_bytes_);
    std::vector<std::uint64_t> children;
    for (std::uint64_t i = 0; i < num_rows * width_; ++i) children.push_back(fields.address());
    found = indirect_.emplace(address, std::move(children)).first;
  }
  if (child >= found->second.size()) Fields({}, where_).refuse("has fewer blocks than it says");
  return found->second[child];
}

std::string FractalHeap::huge(std::uint64_t id) {
  if (huge_.empty()) {
    for (std::string& record : records_of_tree(blocks_, huge_tree_, kHugeTree)) {
      Fields fields(std::move(record), where_);
      const std::uint64_t address = fields.address(), bytes = fields.integer(8);
      huge_.emplace(fields.integer(8), Place{.address = address, .bytes = bytes});
    }
  }
  const auto found = huge_.find(id);
  if (found == huge_.end()) Fields({}, where_).refuse(text("has no huge object ", id));
  return blocks_.plain(found->second.address, found->second.bytes, "attribute");
}

}  // namespace layerprobe::store::hdf5
