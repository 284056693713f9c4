#include "check/versions.h"

#include "base/text.h"

namespace layerprobe::check {
namespace {

/// "13.0" of CUDA's 13000.
std::string cuda_text(int version) { return text(version / 1000, ".", version % 1000 / 10); }

Item judge_driver(const Versions& versions) {
  const device::CudaLibraries& cuda = *versions.cuda;
  Item item{.name = "driver"};
  item.measured = cuda.driver == 0 ? "none"
                                   : text(versions.driver, versions.driver.empty() ? "for CUDA " : ", for CUDA ",
                                          cuda_text(cuda.driver));
  // Of one major version every driver runs every program: "CUDA Compatibility", minor version compatibility.
  if (cuda.driver / 1000 >= cuda.runtime / 1000) return item;
  item.status = Status::fail;
  item.expected = text("for CUDA ", cuda.runtime / 1000, ".0 or later");
  item.advice = "install a newer driver, or use --device-map cpu";
  return item;
}

Item judge_library(std::string name, const device::CudaLibraries::Found& found, bool is_needed, std::string advice) {
  Item item{.name = std::move(name), .measured = found.version};
  if (found.problem.empty()) return item;
  item.status = is_needed ? Status::fail : Status::warn;
  item.measured = found.problem;
  item.advice = std::move(advice);
  return item;
}

}  // namespace

Items judge_versions(const Versions& versions, std::size_t num_gpus) {
  Items items;
  const auto skipped = [&](const char* name) {
    items.push_back({.name = name, .status = Status::skip, .measured = "no GPU is used"});
  };
  if (num_gpus == 0 || !versions.cuda) {
    for (const char* name : {"driver", "CUDA runtime", "cuBLASLt", "NCCL"}) skipped(name);
  } else {
    const device::CudaLibraries& cuda = *versions.cuda;
    items.push_back(judge_driver(versions));
    items.push_back({.name = "CUDA runtime", .measured = text(cuda_text(cuda.runtime), ", in the program")});
    items.push_back(judge_library("cuBLASLt", cuda.cublaslt, /*is_needed=*/true,
                                  text("pip install nvidia-cublas, or install the CUDA ", cuda.runtime / 1000,
                                       " toolkit's libraries, and set LD_LIBRARY_PATH to where they are")));
    if (num_gpus > 1) {
      items.push_back(judge_library("NCCL", cuda.nccl, /*is_needed=*/false,
                                    text("pip install nvidia-nccl-cu", cuda.runtime / 1000,
                                         "; one process does not need it: it copies between GPUs by itself")));
    } else {
      items.push_back({.name = "NCCL", .status = Status::skip, .measured = "one GPU sums with none"});
    }
  }
  items.push_back({.name = "HDF5", .measured = versions.hdf5});
  return items;
}

}  // namespace layerprobe::check
