#include "device/cuda/context.h"

#include <sys/mman.h>

#include <algorithm>
#include <chrono>
#include <cstring>
#include <thread>

#include "base/bytes.h"
#include "base/error.h"
#include "base/text.h"
#include "device/cuda/gpus.h"
#include "kernels/check.h"

namespace layerprobe::device::cuda {
namespace {

using kernels::check;

constexpr int kOldestCapability = 80;
constexpr std::size_t kSegmentBytes = std::size_t{4} << 20;
constexpr std::uint64_t kLeastFreeBytes = std::uint64_t{512} << 20;  // for libraries, workspace and a small layer

/// "13.0" of CUDA's 13000.
std::string version_text(int version) { return text(version / 1000, ".", version % 1000 / 10); }

int count_gpus() {
  int count = 0;
  const cudaError_t status = cudaGetDeviceCount(&count);
  if (status == cudaSuccess) return count;
  cudaGetLastError();  // the runtime keeps it, and would give it to the next launch
  if (status == cudaErrorNoDevice) return 0;
  int driver = 0, runtime = 0;
  cudaDriverGetVersion(&driver);
  cudaRuntimeGetVersion(&runtime);
  throw Error({.kind = ErrorKind::device,
               .where = "cuda",
               .what = driver == 0 ? std::string("no NVIDIA driver is loaded")
                       : status == cudaErrorInsufficientDriver
                           ? text("the NVIDIA driver is for CUDA ", version_text(driver), "; the program needs ",
                                  version_text(runtime))
                           : std::string(cudaGetErrorString(status)),
               .fix = "see what nvidia-smi says, install a newer driver, or use --device-map cpu"});
}

void require_capability(const std::string& name, const cudaDeviceProp& properties) {
  if (properties.major * 10 + properties.minor >= kOldestCapability) return;
  throw Error({.kind = ErrorKind::device,
               .where = name,
               .what = text(properties.name, " has compute capability ", properties.major, ".", properties.minor,
                            "; the program needs 8.0 (A100) or later"),
               .fix = "choose another GPU, or use --device-map cpu"});
}

[[noreturn]] void refuse_full(const std::string& name, const std::string& what) {
  throw Error({.kind = ErrorKind::resource,
               .where = name,
               .what = what,
               .fix = "nvidia-smi shows which programs hold it: wait for them, or choose another GPU"});
}

/// What the program holds of the device's memory, and gives to nobody now.
std::uint64_t unused_bytes_of_pool(int index) {
  cudaMemPool_t pool = nullptr;
  std::uint64_t reserved = 0, used = 0;
  if (cudaDeviceGetDefaultMemPool(&pool, index) == cudaSuccess) {
    cudaMemPoolGetAttribute(pool, cudaMemPoolAttrReservedMemCurrent, &reserved);
    cudaMemPoolGetAttribute(pool, cudaMemPoolAttrUsedMemCurrent, &used);
  }
  return reserved - used;
}

}  // namespace

Context::Context(int index) : index_(index) {
  const int count = count_gpus();
  if (index < 0 || index >= count) {
    throw Error({.kind = ErrorKind::usage,
                 .where = name(),
                 .what = text("there ", count == 1 ? "is 1 GPU" : text("are ", count, " GPUs")),
                 .fix = count == 0 ? "use --device-map cpu, or see whether CUDA_VISIBLE_DEVICES hides the GPUs"
                                   : text("choose cuda:0", count > 1 ? text(" to cuda:", count - 1) : "")});
  }
  cudaDeviceProp properties{};
  check(cudaGetDeviceProperties(&properties, index), name());
  model_ = properties.name;
  capability_ = properties.major * 10 + properties.minor;
  require_capability(name(), properties);

  const cudaError_t status = cudaSetDevice(index);  // makes CUDA's own context, which takes some of the memory
  if (status == cudaErrorMemoryAllocation || status == cudaErrorDevicesUnavailable) {
    cudaGetLastError();
    refuse_full(name(), text("other programs leave none of its ", bytes_text(properties.totalGlobalMem)));
  }
  check(status, text("start ", name()));
  if (free_bytes() < kLeastFreeBytes) {
    refuse_full(name(), text(bytes_text(free_bytes()), " of its ", bytes_text(properties.totalGlobalMem), " are free"));
  }
  check(cudaStreamCreateWithFlags(stream_.out(), cudaStreamNonBlocking), text("make a stream on ", name()));
  cudaMemPool_t pool = nullptr;
  check(cudaDeviceGetDefaultMemPool(&pool, index), text("use the memory of ", name()));
  std::uint64_t keep_all = UINT64_MAX;  // what is given back stays with the program, for the next allocation
  check(cudaMemPoolSetAttribute(pool, cudaMemPoolAttrReleaseThreshold, &keep_all), text("use the memory of ", name()));
  check(cudaMallocHost(staging_.out(), segments_.size() * kSegmentBytes), "allocate pinned memory");
  for (Segment& segment : segments_) {
    check(cudaEventCreateWithFlags(segment.copied.out(), cudaEventDisableTiming), text("make an event on ", name()));
  }
}

void wait_asleep(const Event& event, const std::string& doing) {
  constexpr std::chrono::microseconds kNap{50};
  cudaError_t status = cudaEventQuery(event.get());
  for (; status == cudaErrorNotReady; status = cudaEventQuery(event.get())) std::this_thread::sleep_for(kNap);
  check(status, doing);
}

std::string Context::name() const { return text("cuda:", index_); }

void Context::use() const { check(cudaSetDevice(index_), text("use ", name())); }

void Context::synchronize() const { check(cudaStreamSynchronize(stream()), text("run on ", name())); }

Event Context::record(cudaStream_t stream) const {
  Event event;
  check(cudaEventCreateWithFlags(event.out(), cudaEventDisableTiming), text("make an event on ", name()));
  check(cudaEventRecord(event.get(), stream), text("order the work of ", name()));
  return event;
}

std::uint64_t Context::free_bytes() const {
  std::size_t free = 0, total = 0;
  check(cudaMemGetInfo(&free, &total), text("ask for the free memory of ", name()));
  return free + unused_bytes_of_pool(index_);
}

Buffer Context::allocate(std::size_t bytes, std::function<void(void*)> before_free) const {
  void* data = nullptr;
  const cudaError_t status = cudaMallocAsync(&data, std::max<std::size_t>(bytes, 1), stream());
  if (status == cudaErrorMemoryAllocation || status == cudaErrorInvalidValue) {
    cudaGetLastError();  // the runtime keeps it, and would give it to the next launch
    throw Error({.kind = ErrorKind::resource,
                 .where = name(),
                 .what = text("not enough memory for ", bytes, " bytes: ", bytes_text(free_bytes()), " are free"),
                 .fix = "lower --tokens-per-batch, or run fewer layers with --layers"});
  }
  check(status, text("allocate memory on ", name()));
  return Buffer(data, bytes, [stream = stream(), before_free = std::move(before_free)](void* given) {
    if (before_free) before_free(given);
    cudaFreeAsync(given, stream);
  });
}

/// Not of the pool, whose memory other GPUs see only once all of it has been opened to them.
Buffer Context::allocate_for_peers(std::size_t bytes) {
  use();
  void* data = nullptr;
  const cudaError_t status = cudaMalloc(&data, std::max<std::size_t>(bytes, 1));
  if (status == cudaErrorMemoryAllocation) {
    cudaGetLastError();
    throw Error({.kind = ErrorKind::resource,
                 .where = name(),
                 .what = text("not enough memory for ", bytes,
                              " bytes that come from other GPUs: ", bytes_text(free_bytes()), " are free"),
                 .fix = "lower --tokens-per-batch or --max-memory"});
  }
  check(status, text("allocate memory on ", name()));
  peers_bytes_ += bytes;
  return Buffer(data, bytes, [this, bytes](void* given) {
    cudaFree(given);
    peers_bytes_ -= bytes;
  });
}

Ops::MemoryUse Context::memory_use() const {
  cudaMemPool_t pool = nullptr;
  std::uint64_t used = 0, most = 0;
  if (cudaDeviceGetDefaultMemPool(&pool, index_) == cudaSuccess) {
    cudaMemPoolGetAttribute(pool, cudaMemPoolAttrUsedMemCurrent, &used);
    cudaMemPoolGetAttribute(pool, cudaMemPoolAttrUsedMemHigh, &most);
  }
  return {.bytes = used + peers_bytes_, .most_bytes = most + peers_bytes_};
}

/// Huge pages are touched and registered ten times as fast as cudaMallocHost's.
Buffer Context::allocate_on_host(std::size_t bytes) const {
  use();
  constexpr std::size_t kHugePage = std::size_t{2} << 20;
  const std::size_t size = (std::max<std::size_t>(bytes, 1) + kHugePage - 1) / kHugePage * kHugePage;
  void* const data = mmap(nullptr, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  cudaError_t status = cudaErrorMemoryAllocation;
  if (data != MAP_FAILED) {
    madvise(data, size, MADV_HUGEPAGE);
    constexpr std::size_t kPage = 4096;  // touched here: one thread at a time gets through cudaHostRegister
    for (std::size_t at = 0; at < size; at += kPage) static_cast<volatile std::byte*>(data)[at] = std::byte{0};
    status = cudaHostRegister(data, size, cudaHostRegisterPortable);
    if (status != cudaSuccess) munmap(data, size);
  }
  if (status == cudaErrorMemoryAllocation) {
    cudaGetLastError();
    throw Error({.kind = ErrorKind::resource,
                 .where = "pinned memory",
                 .what = text("the host has none left for ", bytes_text(bytes)),
                 .fix = "give a smaller --pinned-memory, or raise the limit of locked memory (ulimit -l)"});
  }
  check(status, "allocate pinned memory");
  return Buffer(data, bytes, [size](void* given) {
    cudaHostUnregister(given);
    munmap(given, size);
  });
}

bool Context::opens(const Context& other) const {
  int can = 0;
  cudaMemPool_t pool = nullptr;
  cudaMemAccessDesc access{};
  access.location = {.type = cudaMemLocationTypeDevice, .id = index_};
  access.flags = cudaMemAccessFlagsProtReadWrite;
  const bool is_open = cudaDeviceCanAccessPeer(&can, index_, other.index_) == cudaSuccess && can != 0 &&
                       cudaDeviceGetDefaultMemPool(&pool, other.index_) == cudaSuccess &&
                       cudaMemPoolSetAccess(pool, &access, 1) == cudaSuccess;
  if (!is_open) cudaGetLastError();  // the runtime keeps it, and would give it to the next launch
  return is_open;
}

void Context::reserve(std::size_t bytes) const {
  if (bytes <= unused_bytes_of_pool(index_)) return;
  void* data = nullptr;
  if (cudaMallocAsync(&data, bytes, stream()) != cudaSuccess) {
    cudaGetLastError();  // in one piece there is not so much; allocate() will say what is missing
    return;
  }
  cudaFreeAsync(data, stream());  // stays in the pool
}

/// Copies up to a segment's bytes to pinned memory that the stream reads them from.
void* Context::stage(const void* host, std::size_t bytes) {
  if (segments_[segment_].used + bytes > kSegmentBytes) {
    check(cudaEventRecord(segments_[segment_].copied.get(), stream()), text("copy to ", name()));
    segment_ = (segment_ + 1) % segments_.size();
    check(cudaEventSynchronize(segments_[segment_].copied.get()), text("copy to ", name()));
    segments_[segment_].used = 0;
  }
  std::byte* const place =
      static_cast<std::byte*>(staging_.get()) + segment_ * kSegmentBytes + segments_[segment_].used;
  std::memcpy(place, host, bytes);
  segments_[segment_].used += (bytes + 15) / 16 * 16;
  return place;
}

void Context::copy_bytes(void* to, const void* host, std::size_t bytes) {
  for (std::size_t done = 0; done < bytes; done += kSegmentBytes) {
    const std::size_t count = std::min(kSegmentBytes, bytes - done);
    const void* const staged = stage(static_cast<const std::byte*>(host) + done, count);
    check(cudaMemcpyAsync(static_cast<std::byte*>(to) + done, staged, count, cudaMemcpyHostToDevice, stream()),
          text("copy to ", name()));
  }
}

void Context::copy_from_host(const Tensor& out, const void* host) {
  const std::size_t row_bytes = static_cast<std::size_t>(out.columns) * size_of(out.dtype);
  if (out.is_contiguous()) return copy_bytes(out.data, host, row_bytes * static_cast<std::size_t>(out.rows));
  const auto rows_at_once = static_cast<std::int64_t>(kSegmentBytes / row_bytes);
  for (std::int64_t row = 0; row < out.rows; row += std::max<std::int64_t>(rows_at_once, 1)) {
    const Tensor rows = out.row_slice(row, std::min(out.rows - row, std::max<std::int64_t>(rows_at_once, 1)));
    const auto* const from = static_cast<const std::byte*>(host) + static_cast<std::size_t>(row) * row_bytes;
    if (rows_at_once == 0) {  // longer than a segment
      copy_bytes(rows.data, from, row_bytes);
      continue;
    }
    const void* const staged = stage(from, row_bytes * static_cast<std::size_t>(rows.rows));
    check(
        cudaMemcpy2DAsync(rows.data, static_cast<std::size_t>(rows.row_stride) * size_of(rows.dtype), staged, row_bytes,
                          row_bytes, static_cast<std::size_t>(rows.rows), cudaMemcpyHostToDevice, stream()),
        text("copy to ", name()));
  }
}

std::vector<DeviceInfo> gpus() {
  std::vector<DeviceInfo> out;
  int count = 0;
  try {
    count = count_gpus();
  } catch (const Error&) {
    return out;
  }
  for (int index = 0; index < count; ++index) {
    cudaDeviceProp properties{};
    check(cudaGetDeviceProperties(&properties, index), text("ask for the properties of cuda:", index));
    out.push_back({.name = text("cuda:", index),
                   .model = properties.name,
                   .total_bytes = properties.totalGlobalMem,
                   .capability = properties.major * 10 + properties.minor,
                   .is_supported = properties.major * 10 + properties.minor >= kOldestCapability,
                   .address = {.domain = static_cast<unsigned>(properties.pciDomainID),
                               .bus = static_cast<unsigned>(properties.pciBusID),
                               .device = static_cast<unsigned>(properties.pciDeviceID)}});
  }
  return out;
}

}  // namespace layerprobe::device::cuda
