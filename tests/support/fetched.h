#pragma once

#include <doctest/doctest.h>

#include <cstdlib>
#include <filesystem>
#include <string>

namespace layerprobe::test {

/// The path of a file that `scripts/fetch_data <what>` has put into the cache; the case fails where it has not.
inline std::filesystem::path fetched(const std::string& what, const std::string& file_name) {
  const char* cache = std::getenv("LAYERPROBE_CACHE");
  const char* home = std::getenv("HOME");
  const std::filesystem::path folder = cache != nullptr && *cache != '\0'
                                           ? std::filesystem::path(cache)
                                           : std::filesystem::path(home != nullptr ? home : "") / ".cache/layerprobe";
  REQUIRE_MESSAGE(std::filesystem::exists(folder / file_name), "run scripts/fetch_data " << what);
  return folder / file_name;
}

/// SmolLM2-135M-Instruct, Q4_1: weights, config and tokenizer in one GGUF file.
inline std::filesystem::path demo_model() { return fetched("demo-model", "SmolLM2-135M-Instruct.Q4_1.gguf"); }

/// The tokenizer.json of DeepSeek-V3.
inline std::filesystem::path deepseek_tokenizer() { return fetched("deepseek-tokenizer", "deepseek-tokenizer.json"); }

}  // namespace layerprobe::test
