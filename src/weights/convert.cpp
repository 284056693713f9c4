#include "weights/convert.h"

#include <algorithm>
#include <cstring>

#include "base/error.h"
#include "base/float16.h"
#include "weights/dequantize.h"

namespace layerprobe::weights {
namespace {

constexpr std::int64_t kChunkElements = 4096;  // 16 KiB of f32 stay in the first-level cache; whole blocks of any type

template <typename From, typename To, typename Function>
void each(const std::byte* __restrict stored, std::int64_t count, std::byte* __restrict out, Function function) {
  for (std::int64_t i = 0; i < count; ++i) {
    From from;
    std::memcpy(&from, stored + i * static_cast<std::int64_t>(sizeof from), sizeof from);
    const To to = function(from);
    std::memcpy(out + i * static_cast<std::int64_t>(sizeof to), &to, sizeof to);
  }
}

template <typename From, typename To>
void each_cast(const std::byte* stored, std::int64_t count, std::byte* out) {
  each<From, To>(stored, count, out, [](From value) { return static_cast<To>(value); });
}

/// From F64 and the integers; false for other storages.
template <typename To>
bool cast_from(Storage storage, const std::byte* stored, std::int64_t count, std::byte* out) {
  switch (storage) {
    case Storage::f64:
      return each_cast<double, To>(stored, count, out), true;
    case Storage::i64:
      return each_cast<std::int64_t, To>(stored, count, out), true;
    case Storage::i32:
      return each_cast<std::int32_t, To>(stored, count, out), true;
    case Storage::i16:
      return each_cast<std::int16_t, To>(stored, count, out), true;
    case Storage::i8:
      return each_cast<std::int8_t, To>(stored, count, out), true;
    case Storage::u8:
      return each_cast<std::uint8_t, To>(stored, count, out), true;
    default:
      return false;
  }
}

void to_f32(Storage storage, const std::byte* stored, std::int64_t count, float* out) {
  std::byte* const out_bytes = reinterpret_cast<std::byte*>(out);
  if (cast_from<float>(storage, stored, count, out_bytes)) return;
  switch (storage) {
    case Storage::f32:
      std::memcpy(out, stored, static_cast<std::size_t>(count) * sizeof(float));
      return;
    case Storage::f16:
      return each<std::uint16_t, float>(stored, count, out_bytes, f32_of_f16);
    case Storage::bf16:
      return each<std::uint16_t, float>(stored, count, out_bytes, f32_of_bf16);
    default:
      dequantize(storage, reinterpret_cast<const std::uint8_t*>(stored), count / traits_of(storage).block_elements,
                 out);
  }
}

void from_f32(const float* values, std::int64_t count, Dtype dtype, std::byte* out) {
  const std::byte* const bytes = reinterpret_cast<const std::byte*>(values);
  switch (dtype) {
    case Dtype::f64:
      return each_cast<float, double>(bytes, count, out);
    case Dtype::f32:
      std::memcpy(out, values, static_cast<std::size_t>(count) * sizeof(float));
      return;
    case Dtype::f16:
      return each<float, std::uint16_t>(bytes, count, out, f16_of_f32);
    case Dtype::bf16:
      return each<float, std::uint16_t>(bytes, count, out, bf16_of_f32);
    case Dtype::i32:
      expect(false, "weights are read in a floating dtype");
  }
}

}  // namespace

void convert(Storage storage, const std::byte* stored, std::int64_t count, Dtype dtype, std::byte* out) {
  const StorageTraits& traits = traits_of(storage);
  if (is_same(storage, dtype)) {
    std::memcpy(out, stored, static_cast<std::size_t>(count * traits.block_bytes));
    return;
  }
  if (dtype == Dtype::f64 && cast_from<double>(storage, stored, count, out)) return;
  float values[kChunkElements];
  for (std::int64_t done = 0; done < count; done += kChunkElements) {
    const std::int64_t n = std::min(kChunkElements, count - done);
    to_f32(storage, stored + done / traits.block_elements * traits.block_bytes, n, values);
    from_f32(values, n, dtype, out + done * static_cast<std::int64_t>(size_of(dtype)));
  }
}

}  // namespace layerprobe::weights
