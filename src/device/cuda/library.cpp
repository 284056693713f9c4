#include "device/cuda/library.h"

#include <dlfcn.h>

#include <cstdlib>
#include <filesystem>
#include <system_error>
#include <vector>

#include "base/error.h"
#include "base/text.h"

namespace layerprobe::device::cuda {
namespace {

namespace fs = std::filesystem;

fs::path variable(const char* name) {
  const char* const value = std::getenv(name);
  return value == nullptr ? fs::path() : fs::path(value);
}

/// The folders in `folder` whose names begin with `prefix`; none where it cannot be read.
std::vector<fs::path> folders_in(const fs::path& folder, const std::string& prefix) {
  std::vector<fs::path> out;
  std::error_code error;
  for (fs::directory_iterator entry(folder, error), end; !error && entry != end; entry.increment(error)) {
    if (entry->path().filename().string().starts_with(prefix)) out.push_back(entry->path());
  }
  return out;
}

/// Where pip puts NVIDIA's libraries below a Python's prefix ("/usr", a virtual environment).
void add_python(std::vector<fs::path>& folders, const fs::path& prefix) {
  if (prefix.empty()) return;
  for (const fs::path& python : folders_in(prefix / "lib", "python3")) {
    for (const char* packages : {"site-packages", "dist-packages"}) {
      for (const fs::path& part : folders_in(python / packages / "nvidia", "")) folders.push_back(part / "lib");
    }
  }
}

/// The prefix of the first python3 on PATH; links are not followed, for a virtual environment's python is one.
fs::path python_prefix() {
  const char* const path = std::getenv("PATH");
  if (path == nullptr) return {};
  std::error_code ignored;
  for (const std::string& folder : split(path, ':')) {
    if (fs::exists(fs::path(folder) / "python3", ignored)) return fs::path(folder).parent_path();
  }
  return {};
}

std::vector<fs::path> candidates(const std::string& name) {
  std::vector<fs::path> folders;
  std::error_code error;
  const fs::path program = fs::read_symlink("/proc/self/exe", error).parent_path();
  if (!error) {
    folders.push_back(program);
    folders.push_back(program / "lib");
    folders.push_back(program.parent_path() / "lib");
  }
  folders.emplace_back();  // the loader's own search
  for (const char* home : {"CUDA_HOME", "CUDA_PATH"}) {
    if (variable(home).empty()) continue;
    folders.push_back(variable(home) / "lib64");
    folders.push_back(variable(home) / "lib");
  }
  folders.emplace_back("/usr/local/cuda/lib64");
  for (const fs::path& prefix : {variable("VIRTUAL_ENV"), variable("CONDA_PREFIX"), python_prefix()}) {
    add_python(folders, prefix);
  }
  for (const char* prefix : {"/usr/local", "/usr"}) add_python(folders, prefix);
  for (fs::path& folder : folders) folder /= name;
  return folders;
}

}  // namespace

Library::Library(const std::string& name) : name_(name) {
  std::string problem;  // of the first that is there and does not open
  for (const fs::path& path : candidates(name)) {
    handle_ = dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL);
    if (handle_ != nullptr) return;
    const char* const message = dlerror();
    std::error_code ignored;
    if (problem.empty() && message != nullptr && fs::exists(path, ignored)) problem = message;
  }
  throw Error({.kind = ErrorKind::device,
               .where = name,
               .what = problem.empty()
                           ? "not found beside the program, by the loader, in CUDA_HOME, in /usr/local/cuda "
                             "or in Python's nvidia packages"
                           : problem,
               .fix = "install the CUDA toolkit's libraries (pip install nvidia-cublas), set LD_LIBRARY_PATH to where "
                      "they are, or use --device-map cpu"});
}

void* Library::address(const char* symbol) const {
  void* const found = dlsym(handle_, symbol);
  if (found != nullptr) return found;
  throw Error({.kind = ErrorKind::device,
               .where = name_,
               .what = text("has no function ", symbol),
               .fix = "install the CUDA toolkit's libraries of the version that the program was built with"});
}

}  // namespace layerprobe::device::cuda
