#include "weights/read_values.h"

#include <algorithm>
#include <cstdint>
#include <exception>
#include <span>
#include <vector>

#include "base/error.h"
#include "base/text.h"
#include "weights/convert.h"

namespace layerprobe::weights {
namespace {

constexpr std::int64_t kPieceElements = 65'536;  // what a core reads and converts at a time; whole blocks of any type

/// Where the row stored at `row` belongs. Each head's rows 2j and 2j + 1 are transformers' rows j and j + head_dim / 2
/// (model-math 10.5).
std::int64_t row_in_order(std::int64_t row, std::int64_t head_dim) {
  const std::int64_t in_head = row % head_dim;
  return row - in_head + in_head / 2 + in_head % 2 * (head_dim / 2);
}

struct Piece {
  const TensorInfo& tensor;
  Dtype dtype;
  std::int64_t begin;  // elements of the tensor as stored
  std::int64_t end;
};

/// Converts `stored`, the bytes of a piece, row by row to where each row belongs.
void convert_rows(const Piece& piece, const std::byte* stored, std::byte* out) {
  const TensorInfo& tensor = piece.tensor;
  const StorageTraits& traits = traits_of(tensor.storage);
  const std::int64_t row_elements = tensor.shape.size() == 1 ? 1 : tensor.num_elements() / tensor.shape[0];
  const std::int64_t head_dim = tensor.shape[0] / tensor.interleaved_heads;
  for (std::int64_t begin = piece.begin; begin < piece.end;) {
    const std::int64_t row = begin / row_elements;
    const std::int64_t end = std::min(piece.end, (row + 1) * row_elements);
    const std::int64_t to = row_in_order(row, head_dim) * row_elements + begin % row_elements;
    convert(tensor.storage, stored + (begin - piece.begin) / traits.block_elements * traits.block_bytes, end - begin,
            piece.dtype, out + to * static_cast<std::int64_t>(size_of(piece.dtype)));
    begin = end;
  }
}

void read_piece(const File& file, const Piece& piece, std::vector<std::byte>& stored, std::byte* out) {
  const TensorInfo& tensor = piece.tensor;
  const StorageTraits& traits = traits_of(tensor.storage);
  const std::int64_t count = piece.end - piece.begin;
  const auto bytes = static_cast<std::size_t>(count / traits.block_elements * traits.block_bytes);
  const std::uint64_t offset =
      tensor.offset + static_cast<std::uint64_t>(piece.begin / traits.block_elements * traits.block_bytes);
  std::byte* const to = out + piece.begin * static_cast<std::int64_t>(size_of(piece.dtype));
  if (is_same(tensor.storage, piece.dtype) && tensor.interleaved_heads == 0) {
    file.read_at(offset, std::span(to, bytes));
    return;
  }
  stored.resize(std::max(stored.size(), bytes));
  file.read_at(offset, std::span(stored.data(), bytes));
  if (tensor.interleaved_heads == 0) return convert(tensor.storage, stored.data(), count, piece.dtype, to);
  convert_rows(piece, stored.data(), out);
}

}  // namespace

void read_values(const File& file, const TensorInfo& tensor, Dtype dtype, std::byte* out) {
  require_convertible(file, tensor);
  const std::int64_t num_elements = tensor.num_elements();
  const std::int64_t num_pieces = (num_elements + kPieceElements - 1) / kPieceElements;
  std::exception_ptr failure;  // of the first piece that has one: an exception must not leave a parallel region
  std::int64_t failed_piece = num_pieces;
#pragma omp parallel if (num_pieces > 1)
  {
    std::vector<std::byte> stored;
#pragma omp for schedule(dynamic)
    for (std::int64_t i = 0; i < num_pieces; ++i) {
      const std::int64_t begin = i * kPieceElements;
      try {
        read_piece(file, {tensor, dtype, begin, std::min(begin + kPieceElements, num_elements)}, stored, out);
      } catch (...) {
#pragma omp critical(read_values_failure)
        if (i < failed_piece) {
          failed_piece = i;
          failure = std::current_exception();
        }
      }
    }
  }
  if (failure) std::rethrow_exception(failure);
}

void require_convertible(const File& file, const TensorInfo& tensor) {
  if (is_convertible(tensor.storage)) return;
  throw Error({.kind = ErrorKind::input,
               .where = text(file.path().string(), ": ", tensor.name),
               .what = text("is stored as ", name_of(tensor.storage), ", which cannot be read by itself"),
               .fix = "use the model's bfloat16 or float16 checkpoint"});
}

}  // namespace layerprobe::weights
