#pragma once

// Products of a warpgroup (four warps) and what goes with them, of compute capability 9.0 and no other ("sm_90a").
// Source: PTX ISA 9.0, sections on wgmma, matrix descriptors, mbarrier, fence.proxy and setmaxnreg; the canonical
// layouts of swizzled matrices as CUTLASS 4.2 documents them in cute/arch/mma_sm90_desc.hpp.

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <cstdint>
#include <type_traits>

namespace layerprobe::kernels {

/// A matrix of 16-bit elements in shared memory, in slabs of 64 columns: rows of 128 bytes, one after the other, in
/// which the 16-byte pieces are swapped about so that eight rows' pieces lie in different banks: piece p of row r is at
/// p ^ (r % 8). Each slab begins at a multiple of 1,024 bytes.
///
/// The descriptor of its first 16 columns (a product's sum goes along a row), or, of its first 16 rows (the sum goes
/// down the columns; `slab_bytes` leads from 64 columns to the next). Other parts are found by adding to the address,
/// in bytes: 32 for the next 16 columns of a slab, 128 for the next row.
__device__ inline std::uint64_t describe_matrix(std::uint32_t address, std::uint32_t slab_bytes) {
  constexpr std::uint64_t kSwizzle128 = 1ull << 62, kEightRows = 1024;
  return kSwizzle128 | kEightRows >> 4 << 32 | std::uint64_t{slab_bytes >> 4} << 16 | (address & 0x3ffff) >> 4;
}
__device__ inline std::uint64_t moved_by(std::uint64_t descriptor, std::uint32_t bytes) {
  return descriptor + (bytes >> 4);
}
/// Where the 16 bytes at a row and piece of a slab lie, in bytes from its begin.
__device__ inline std::uint32_t swizzled(std::uint32_t row, std::uint32_t piece) {
  return row * 128 + (piece ^ row % 8) * 16;
}

/// Before products whose registers other instructions have written.
__device__ inline void begin_products() { asm volatile("wgmma.fence.sync.aligned;" ::: "memory"); }
/// Ends a group of products: what wait_for_products counts.
__device__ inline void commit_products() { asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory"); }
/// Until at most kPending groups, the last ones, are not done.
template <int kPending>
__device__ void wait_for_products() {
  asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(kPending) : "memory");
}
/// Keeps the compiler from moving what reads or writes these registers across this point.
template <int kN>
__device__ void hold_registers(float (&sum)[kN / 8][4]) {
#pragma unroll
  for (int i = 0; i < kN / 8; ++i) {
#pragma unroll
    for (int c = 0; c < 4; ++c) asm volatile("" : "+f"(sum[i][c]));
  }
}

// Element (g, 2t), (g, 2t + 1), (g + 8, 2t) and (g + 8, 2t + 1) of each 8 columns of a warp's 16 rows are lane l's,
// with g = l / 4 and t = l % 4: sum[i] has those of columns 8i to 8i + 7. So are the elements of a left side in
// registers, as in mma.cuh.

// PTX wants each register by its name: these are 32 of the sums, in the operands' text and as operands.
#define TEXT_0_31                                                                                                  \
  "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, %16, %17, %18, %19, %20, %21, %22, %23, " \
  "%24, %25, %26, %27, %28, %29, %30, %31"
#define TEXT_32_63                                                                                                 \
  "%32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47, %48, %49, %50, %51, %52, %53, " \
  "%54, %55, %56, %57, %58, %59, %60, %61, %62, %63"
#define FOUR(i) "+f"(sum[i][0]), "+f"(sum[i][1]), "+f"(sum[i][2]), "+f"(sum[i][3])
#define SUMS_0_31 FOUR(0), FOUR(1), FOUR(2), FOUR(3), FOUR(4), FOUR(5), FOUR(6), FOUR(7)
#define SUMS_32_63 FOUR(8), FOUR(9), FOUR(10), FOUR(11), FOUR(12), FOUR(13), FOUR(14), FOUR(15)

// What follows the sums: scale-d (whether to add to them), then the signs of a and b, then whether each is transposed.
#define MULTIPLY_DESCRIBED_64(type)                                                                               \
  asm volatile("{ .reg .pred p; setp.ne.b32 p, %34, 0; wgmma.mma_async.sync.aligned.m64n64k16.f32." type "." type \
               " {" TEXT_0_31 "}, %32, %33, p, 1, 1, 0, 0; }"                                                     \
               : SUMS_0_31                                                                                        \
               : "l"(a), "l"(b), "r"(static_cast<int>(accumulate)))
#define MULTIPLY_DESCRIBED_128(type)                                                                               \
  asm volatile("{ .reg .pred p; setp.ne.b32 p, %66, 0; wgmma.mma_async.sync.aligned.m64n128k16.f32." type "." type \
               " {" TEXT_0_31 ", " TEXT_32_63 "}, %64, %65, p, 1, 1, 0, 0; }"                                      \
               : SUMS_0_31, SUMS_32_63                                                                             \
               : "l"(a), "l"(b), "r"(static_cast<int>(accumulate)))
#define MULTIPLY_REGISTERS_64(type)                                                                             \
  asm volatile("{ .reg .pred p; setp.eq.b32 p, 0, 0; wgmma.mma_async.sync.aligned.m64n64k16.f32." type "." type \
               " {" TEXT_0_31 "}, {%32, %33, %34, %35}, %36, p, 1, 1, 1; }"                                     \
               : SUMS_0_31                                                                                      \
               : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b))
#define MULTIPLY_REGISTERS_128(type)                                                                             \
  asm volatile("{ .reg .pred p; setp.eq.b32 p, 0, 0; wgmma.mma_async.sync.aligned.m64n128k16.f32." type "." type \
               " {" TEXT_0_31 ", " TEXT_32_63 "}, {%64, %65, %66, %67}, %68, p, 1, 1, 1; }"                      \
               : SUMS_0_31, SUMS_32_63                                                                           \
               : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b))
#define BY_TYPE(multiply)                    \
  if constexpr (std::is_same_v<T, __half>) { \
    multiply("f16");                         \
  } else {                                   \
    multiply("bf16");                        \
  }

/// sum[64, n] = a[64, 16] * b[n, 16]^T, added to what sum is where `accumulate`, for n of 64 and 128. Begun, not done.
template <typename T>
__device__ void begin_product(float (&sum)[8][4], std::uint64_t a, std::uint64_t b, bool accumulate) {
  BY_TYPE(MULTIPLY_DESCRIBED_64)
}
template <typename T>
__device__ void begin_product(float (&sum)[16][4], std::uint64_t a, std::uint64_t b, bool accumulate) {
  BY_TYPE(MULTIPLY_DESCRIBED_128)
}

/// sum[64, n] += a[64, 16] * b[16, n], for n of 64 and 128. Begun, not done: `a` has to stay as it is until then.
template <typename T>
__device__ void begin_product(float (&sum)[8][4], const std::uint32_t (&a)[4], std::uint64_t b) {
  BY_TYPE(MULTIPLY_REGISTERS_64)
}
template <typename T>
__device__ void begin_product(float (&sum)[16][4], const std::uint32_t (&a)[4], std::uint64_t b) {
  BY_TYPE(MULTIPLY_REGISTERS_128)
}

#undef TEXT_0_31
#undef TEXT_32_63
#undef FOUR
#undef SUMS_0_31
#undef SUMS_32_63
#undef MULTIPLY_DESCRIBED_64
#undef MULTIPLY_DESCRIBED_128
#undef MULTIPLY_REGISTERS_64
#undef MULTIPLY_REGISTERS_128
#undef BY_TYPE

/// A barrier in shared memory that threads arrive at and others wait for, phase after phase.
class PhaseBarrier {
 public:
  /// By one thread, before all others meet.
  __device__ void init(int arrivals) {
    asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(address()), "r"(arrivals) : "memory");
  }
  __device__ void arrive() { asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(address()) : "memory"); }
  /// Whether the phase of that parity (0, 1, 0, ...) is complete. Parity 1 of a new barrier is.
  __device__ bool is_complete(std::uint32_t parity) const {
    std::uint32_t complete;
    asm volatile("{ .reg .pred p; mbarrier.test_wait.parity.shared::cta.b64 p, [%1], %2; selp.u32 %0, 1, 0, p; }"
                 : "=r"(complete)
                 : "r"(address()), "r"(parity)
                 : "memory");
    return complete != 0;
  }
  /// Until it is.
  __device__ void wait(std::uint32_t parity) const {
    asm volatile("{ .reg .pred p; again: mbarrier.try_wait.parity.shared::cta.b64 p, [%0], %1; @!p bra again; }" ::"r"(
                     address()),
                 "r"(parity)
                 : "memory");
  }

 private:
  __device__ std::uint32_t address() const { return static_cast<std::uint32_t>(__cvta_generic_to_shared(&state_)); }

  std::uint64_t state_;
};

/// Between this thread's ordinary writes to shared memory and what tells others that products may read them.
__device__ inline void show_to_products() { asm volatile("fence.proxy.async.shared::cta;" ::: "memory"); }

/// How many registers the warpgroup's threads have from here on. All of it, and a multiple of 8.
template <int kRegisters>
__device__ void give_back_registers() {
  asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(kRegisters));
}
template <int kRegisters>
__device__ void take_registers() {
  asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(kRegisters));
}

}  // namespace layerprobe::kernels
