#pragma once

#include <filesystem>
#include <functional>
#include <string_view>
#include <vector>

namespace layerprobe::fuzz {

/// One reader, and what is done first with what it reads. Takes any bytes. An Error(input) or Error(usage) is an
/// answer; every other exception leaves, and is a finding as a crash, a hang or memory beyond measure is.
void safetensors(std::string_view bytes);     // a .safetensors file: header and values
void gguf(std::string_view bytes);            // a .gguf file: header, config, values, vocabulary
void config_json(std::string_view bytes);     // config.json, to the plan of a run
void tokenizer_json(std::string_view bytes);  // tokenizer.json, to the ids of a short text
void captured_run(std::string_view bytes);    // one of our .h5 files, to its comparison with itself
void options(std::string_view bytes);         // the text of an option; the first byte says of which

struct Target {
  const char* name;  // as the function, and the folder of its seeds
  void (*run)(std::string_view bytes);
};
inline const std::vector<Target>& targets() {
  static const std::vector<Target> all = {{"safetensors", safetensors},   {"gguf", gguf},
                                          {"config_json", config_json},   {"tokenizer_json", tokenizer_json},
                                          {"captured_run", captured_run}, {"options", options}};
  return all;
}

/// A file of these bytes, in memory where the system has /dev/shm, for readers that take a path. Gone with the object.
/// HDF5 takes no memfd: it asks for the real path.
class MemoryFile {
 public:
  explicit MemoryFile(std::string_view bytes);
  MemoryFile(const MemoryFile&) = delete;
  MemoryFile& operator=(const MemoryFile&) = delete;
  ~MemoryFile();
  const std::filesystem::path& path() const { return path_; }

 private:
  std::filesystem::path path_;
};

/// Calls `read` and drops an Error of input or usage: that is what a reader is there for.
void expect_answer(const std::function<void()>& read);

}  // namespace layerprobe::fuzz
