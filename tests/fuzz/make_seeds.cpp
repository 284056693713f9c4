// Writes the seeds that are made by the tests' own builders: make_seeds tests/fuzz/seeds
#include <filesystem>
#include <string>

#include "tests/store/sample.h"
#include "tests/support/model_files.h"

namespace {

using namespace layerprobe;
namespace fs = std::filesystem;

void write_safetensors(const fs::path& folder) {
  std::string header = R"({"__metadata__": {"format": "pt"})", data;
  for (const auto& [dtype, bytes] : {std::pair("F64", 8),
                                     {"F32", 4},
                                     {"F16", 2},
                                     {"BF16", 2},
                                     {"I64", 8},
                                     {"I32", 4},
                                     {"I16", 2},
                                     {"I8", 1},
                                     {"U8", 1},
                                     {"BOOL", 1},
                                     {"F8_E4M3", 1},
                                     {"F8_E5M2", 1}}) {
    const std::size_t begin = data.size();
    data += std::string(static_cast<std::size_t>(6 * bytes), '\x3f');
    header += text(", \"model.", dtype, "\": {\"dtype\": \"", dtype, "\", \"shape\": [2, 3], \"data_offsets\": [",
                   begin, ", ", data.size(), "]}");
  }
  test::write_all(folder / "every_dtype", test::safetensors(header + "}", data));
  test::write_all(folder / "scalar_and_empty",
                  test::safetensors(R"({"\u00e9": {"dtype": "F32", "shape": [], "data_offsets": [0, 4]},)"
                                    R"("none": {"dtype": "U8", "shape": [0, 7], "data_offsets": [4, 4]}})",
                                    "abcd"));
  test::write_all(folder / "nothing", test::safetensors("{}", ""));
}

/// A whole model of one layer whose q projection is stored in blocks.
std::string gguf_model(const std::string& architecture, const std::string& pre) {
  test::GgufBuilder out = test::small_gguf(architecture);
  out.u32(architecture + ".attention.key_length", 2).u32(architecture + ".attention.value_length", 2);
  out.text("tokenizer.ggml.model", "gpt2").text("tokenizer.ggml.pre", pre);
  out.strings("tokenizer.ggml.tokens", {"a", "b", "<s>", "ab", "1"});
  out.value("tokenizer.ggml.token_type", 9,
            test::raw(5u) + test::raw(std::uint64_t{5}) + test::raw(std::vector<std::int32_t>{1, 1, 3, 1, 1}));
  out.strings("tokenizer.ggml.merges", {"a b"});
  out.u32("tokenizer.ggml.bos_token_id", 2).value("tokenizer.ggml.add_bos_token", 7, "\1");
  const auto tensor = [&](const std::string& name, const std::vector<std::uint64_t>& dims) {
    std::size_t bytes = 4;
    for (const std::uint64_t size : dims) bytes *= size;
    out.tensor(name, dims, 0, std::string(bytes, '\x3c'));
  };
  tensor("token_embd.weight", {4, 5});
  tensor("output_norm.weight", {4});
  for (const char* norm : {"attn_norm", "ffn_norm"}) tensor(text("blk.0.", norm, ".weight"), {4});
  tensor("blk.0.attn_q.weight", {4, 4});
  for (const char* name : {"attn_k", "attn_v"}) tensor(text("blk.0.", name, ".weight"), {4, 2});
  tensor("blk.0.attn_output.weight", {4, 4});
  for (const char* name : {"ffn_gate", "ffn_up"}) tensor(text("blk.0.", name, ".weight"), {4, 6});
  tensor("blk.0.ffn_down.weight", {6, 4});
  if (architecture != "llama") {
    tensor("blk.0.attn_q.bias", {4});
    for (const char* name : {"attn_k", "attn_v"}) tensor(text("blk.0.", name, ".bias"), {2});
  }
  return out.bytes();
}

void write_gguf(const fs::path& folder) {
  test::write_all(folder / "llama", gguf_model("llama", "smollm"));
  test::write_all(folder / "qwen2", gguf_model("qwen2", "qwen2"));
  test::GgufBuilder blocks = test::small_gguf().u32("llama.vocab_size", 3).f32("llama.rope.scaling.factor", 2);
  blocks.text("llama.rope.scaling.type", "linear").u32("general.alignment", 64);
  blocks.alignment = 64;
  for (const auto& [type, elements, bytes] : {std::tuple(2u, 32, 18),
                                              {3u, 32, 20},
                                              {6u, 32, 22},
                                              {7u, 32, 24},
                                              {8u, 32, 34},
                                              {10u, 256, 84},
                                              {11u, 256, 110},
                                              {12u, 256, 144},
                                              {13u, 256, 176},
                                              {14u, 256, 210},
                                              {1u, 4, 8},
                                              {30u, 4, 8},
                                              {28u, 2, 16},
                                              {27u, 2, 16}}) {
    blocks.tensor(text("t", type), {static_cast<std::uint64_t>(elements)}, type,
                  std::string(static_cast<std::size_t>(bytes), '\x35'));
  }
  blocks.tensor("blk.0.attn_q.weight", {32, 4}, 8, std::string(4 * 34, '\x35'));
  test::write_all(folder / "blocks", blocks.bytes());
  test::GgufBuilder values;
  for (std::uint32_t type = 0; type <= 12; ++type) {
    if (type == 8 || type == 9) continue;
    values.value(text("v", type), type,
                 std::string(type == 0 || type == 1 || type == 7 ? 1
                             : type <= 3                         ? 2
                             : type <= 6                         ? 4
                                                                 : 8,
                             '\1'));
  }
  values.value("list", 9, test::raw(5u) + test::raw(std::uint64_t{2}) + std::string(8, '\1'))
      .strings("words", {"", "a"});
  test::write_all(folder / "every_value", values.bytes());
}

void write_captured_runs(const fs::path& folder) {
  fs::remove(folder / "whole.h5");
  test::write_run(folder / "whole.h5", test::sample_layout());
  store::Layout layout = test::sample_layout();
  layout.prompts.texts.clear();
  layout.points.resize(2);
  fs::remove(folder / "partial.h5");
  {
    store::Writer writer(folder / "partial.h5", layout, store::Writer::IfExists::overwrite);
    test::write_prompt(writer, layout, 0);
    writer.commit();
  }
  fs::rename(folder / "partial.h5.partial", folder / "partial.h5");
}

}  // namespace

int main(int, char** argv) {
  const fs::path seeds = argv[1];
  write_safetensors(seeds / "safetensors");
  write_gguf(seeds / "gguf");
  write_captured_runs(seeds / "captured_run");
}
