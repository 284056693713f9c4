#include "device/load_plan.h"

#include <doctest/doctest.h>

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <string>

#include "base/error.h"
#include "base/text.h"
#include "tests/support/stored_bytes.h"
#include "tests/support/stored_file.h"

namespace layerprobe::device {
namespace {

/// A matrix in a file, and what loads it.
struct Stored {
  std::vector<std::byte> bytes;
  std::vector<std::byte> out;
  QueuedLoad load;
};

/// Matrices of one column in `file`, one after the other.
std::vector<std::unique_ptr<Stored>> stored_in(test::StoredFile& file, Storage storage, Dtype dtype,
                                               const std::vector<std::int64_t>& sizes) {
  std::vector<std::unique_ptr<Stored>> all;
  for (const std::int64_t size : sizes) {
    auto stored = std::make_unique<Stored>();
    stored->bytes = test::random_stored(storage, size, static_cast<std::uint64_t>(size));
    stored->out.resize(stored->bytes.size());
    stored->load = {.out = Tensor::contiguous(stored->out.data(), dtype, 1, size),
                    .values = file.add(1, size, storage, stored->bytes)};
    all.push_back(std::move(stored));
  }
  return all;
}

LoadPlan plan_of(const std::vector<std::unique_ptr<Stored>>& all) {
  std::vector<QueuedLoad> loads;
  for (auto stored = all.rbegin(); stored != all.rend(); ++stored) loads.push_back((*stored)->load);
  return LoadPlan(std::move(loads));
}

/// What a device does with the plan, without converting: the parts' bytes go to their places.
void carry_out(const LoadPlan& plan) {
  const std::unique_ptr<void, decltype(&std::free)> memory(std::aligned_alloc(File::kDirectAlignment, plan.room_bytes),
                                                           std::free);
  for (const LoadPiece& piece : plan.pieces) {
    const std::byte* const bytes =
        read_piece(plan.sources[piece.source], piece, {static_cast<std::byte*>(memory.get()), plan.room_bytes});
    for (const LoadPart& part : piece.parts) {
      const QueuedLoad& load = plan.loads[part.load];
      std::memcpy(static_cast<std::byte*>(load.out.data) + part.begin,
                  bytes + (load.values.offset + part.begin - piece.begin), part.end - part.begin);
    }
  }
}

}  // namespace

TEST_CASE("every byte of every load is in the plan, by the page cache and past it") {
  for (const auto& [storage, dtype] : {std::pair{Storage::bf16, Dtype::bf16}, std::pair{Storage::q6_k, Dtype::bf16}}) {
    for (const std::size_t offset : {0, 4095, 4097}) {
      for (const bool past : {false, true}) {
        CAPTURE(name_of(storage));
        CAPTURE(offset);
        CAPTURE(past);
        test::StoredFile file(offset);
        const auto all = stored_in(file, storage, dtype, {256, 6'000'128, 512, 256, 2'097'152, 5'120'000, 256});
        LoadPlan plan = plan_of(all);
        CHECK(plan.converts == (storage != Storage::bf16));
        if (past) plan.sources[0].direct = file.file().reopened_direct();  // where the file system has it
        carry_out(plan);
        std::uint64_t told = 0, bytes = 0;
        for (const LoadPiece& piece : plan.pieces) told += piece.bytes;
        for (const auto& stored : all) {
          CHECK(stored->out == stored->bytes);
          bytes += stored->bytes.size();
        }
        CHECK(told == bytes);
        CHECK(plan.pieces.size() <= bytes / LoadPlan::kPieceBytes + 2);  // small ones take no reads of their own
      }
    }
  }
}

TEST_CASE("a piece holds whole blocks of what is converted") {
  test::StoredFile file(77);
  const auto all = stored_in(file, Storage::q6_k, Dtype::f32, {256 * 30'000});
  const LoadPlan plan = plan_of(all);
  CHECK(plan.pieces.size() == 210 * 30'000 / LoadPlan::kPieceBytes + 1);
  for (const LoadPiece& piece : plan.pieces) {
    for (const LoadPart& part : piece.parts) {
      CHECK(part.begin % 210 == 0);
      CHECK(part.end % 210 == 0);
    }
  }
}

TEST_CASE("many small loads fill a piece only so far, distant and doubled ones are read apart") {
  test::StoredFile file;
  auto all = stored_in(file, Storage::f32, Dtype::f32, std::vector<std::int64_t>(100, 3));
  LoadPlan plan = plan_of(all);
  CHECK(plan.pieces.size() == 2);
  CHECK(plan.pieces[0].parts.size() == LoadPlan::kMostParts);

  file.add(1, 100'000, Storage::f32, std::vector<std::byte>(400'000));
  all.push_back(std::move(stored_in(file, Storage::f32, Dtype::f32, {5})[0]));
  all.push_back(std::make_unique<Stored>(*all[0]));  // the same values for another place
  all.back()->load.out.data = all.back()->out.data();
  plan = plan_of(all);
  CHECK(plan.pieces.size() == 3);
  carry_out(plan);
  for (const auto& stored : all) CHECK(stored->out == stored->bytes);
}

TEST_CASE("a file that ends within a piece is an error that says where") {
  for (const bool past : {false, true}) {
    test::StoredFile file;
    const auto all = stored_in(file, Storage::f32, Dtype::f32, {3'000'000});
    LoadPlan plan = plan_of(all);
    constexpr std::uint64_t kEnd = 9'000'001;
    std::filesystem::resize_file(file.path(), kEnd);
    const auto cut = std::ranges::find_if(plan.pieces, [](const LoadPiece& piece) { return piece.end > kEnd; });
    if (past) plan.sources[0].direct = file.file().reopened_direct();
    const std::string told = text("values: ends at byte ", kEnd, " where ", cut->end - kEnd, " more");
    CHECK_THROWS_WITH_AS(carry_out(plan), doctest::Contains(told.c_str()), Error);
  }
}

}  // namespace layerprobe::device
