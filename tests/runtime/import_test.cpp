#include "runtime/import.h"

#include <doctest/doctest.h>

#include "base/error.h"
#include "base/float16.h"
#include "base/json.h"
#include "base/text.h"
#include "compare/compare.h"
#include "runtime/array_names.h"
#include "tests/compare/sample.h"
#include "tests/store/sample.h"
#include "tests/support/model_files.h"
#include "tests/support/process.h"

namespace layerprobe {
namespace {

using runtime::ImportOptions;
using runtime::NamePattern;

/// A version 1 .npy file.
std::string npy(const std::string& descr, const std::string& shape, const std::string& data,
                const char* fortran_order = "False") {
  const std::string header =
      text("{'descr': '", descr, "', 'fortran_order': ", fortran_order, ", 'shape': ", shape, ", }\n");
  return "\x93NUMPY" + std::string("\1\0", 2) + test::raw(static_cast<std::uint16_t>(header.size())) + header + data;
}

/// Values of some rows of a point of the sample, stored in `dtype`.
std::string values(const test::SampleRun& run, std::size_t point, std::int64_t first, std::int64_t rows, Dtype dtype) {
  std::vector<std::byte> out;
  const std::int64_t width = run.layout.points[point].point.width;
  for (std::int64_t i = first * width; i < (first + rows) * width; ++i) {
    test::append_as(dtype, run.values[point][static_cast<std::size_t>(i)], out);
  }
  return {reinterpret_cast<const char*>(out.data()), out.size()};
}

struct Tensor {
  std::string name, dtype;
  std::vector<std::int64_t> shape;
  std::string data;
};

std::string safetensors(const std::vector<Tensor>& tensors) {
  Json header;
  std::string data;
  for (const Tensor& each : tensors) {
    Json info, shape(Json::Array{});
    for (const std::int64_t size : each.shape) shape.push(size);
    info.set("dtype", each.dtype);
    info.set("shape", shape);
    const std::uint64_t begin = data.size();
    data += each.data;
    info.set("data_offsets", Json::Array{Json(begin), Json(std::uint64_t{data.size()})});
    header.set(each.name, info);
  }
  return test::safetensors(header.dump(), data);
}

std::string ids_text(const test::SampleRun& run, std::int64_t prompt) {
  std::string out;
  for (std::int64_t i = 0; i < run.layout.prompts.length(prompt); ++i) {
    const auto at = static_cast<std::size_t>(run.layout.prompts.cu_seqlens[static_cast<std::size_t>(prompt)] + i);
    out += test::raw(std::int64_t{run.layout.prompts.input_ids[at]});
  }
  return out;
}

/// The folder's arrays, imported, hold what the sample does at the points they have, to the bit.
void check_same(const test::TempFolder& folder, const test::SampleRun& run, const ImportOptions& options,
                std::size_t num_points) {
  CAPTURE(options.sources.front());
  const runtime::ImportReport report = runtime::import_arrays(options);
  CHECK(report.num_points == static_cast<std::int64_t>(num_points));
  const store::Reader reference(test::write_file(folder / "sample.h5", run));
  const store::Reader imported(options.output);
  const compare::Report compared =
      compare::compare_runs(reference, imported, {.max_rel_l2 = {}, .exact = true, .points = {}});
  CHECK(compared.agrees());
  CHECK(compared.differences.size() == num_points);
  CHECK(compared.num_rows == 13);
  for (std::size_t i = 0; i < imported.points().size(); ++i) {
    CHECK(imported.statistics(i).count == 13 * imported.points()[i].point.width);
    CHECK(imported.statistics(i).abs_max > 0);
  }
}

std::string folder_of(const test::TempFolder& folder, const char* name) {
  std::filesystem::create_directories(folder / name);
  return (folder / name).string();
}

}  // namespace

TEST_CASE("a pattern says which point an array is of") {
  const auto point = [](const char* pattern, const char* name) -> std::string {
    const auto match = NamePattern(pattern).match(name);
    if (!match) return "-";
    return match->point + (match->prompt ? " of " + *match->prompt : "");
  };
  CHECK(point("out_{layer}_p{prompt} = model.layers.{layer}", "dump/out_3_p12") == "model.layers.3 of 12");
  CHECK(point("hs_{layer} = model.layers.{layer-1}", "hs_3") == "model.layers.2");
  CHECK(point("hs_{layer} = model.layers.{layer-1}", "hs_0") == "-");
  CHECK(point("hs_{layer} = model.layers.{layer+2}", "hs_0") == "model.layers.2");
  CHECK(point("{prompt}/{point}", "7/model.norm") == "model.norm of 7");
  CHECK(point("{prompt}/{point}", "model.norm") == "-");
  CHECK(point("{prompt}/{point}", "a/7/model.norm") == "-");
  CHECK(point("{point}", "a/7/model.norm") == "model.norm");
  CHECK(point("*_L{layer}_* = model.layers.{layer}.mlp", "step9_L41_mlp_out") == "model.layers.41.mlp");
  CHECK(point("l{layer} = model.layers.{layer}", "lx") == "-");
  CHECK(point("tokens_{prompt} = input_ids", "tokens_a") == "input_ids of a");
  for (const char* bad : {" = x", "a = ", "{layer = x", "{x} = y", "a = {layer}", "a = {point}", "{prompt} = {prompt}",
                          "{layer}{layer} = x", "{layer-1} = x", "{layer} = {layer*2}", "{layer} = {layer-}"}) {
    CAPTURE(bad);
    CHECK_THROWS_WITH_AS(NamePattern{bad}, doctest::Contains("--map"), Error);
  }
}

TEST_CASE("numbers in names count as numbers") {
  CHECK(runtime::comes_before("p9", "p10"));
  CHECK_FALSE(runtime::comes_before("p10", "p9"));
  CHECK(runtime::comes_before("a2b10", "a2b11"));
  CHECK(runtime::comes_before("p", "p1"));
  CHECK_FALSE(runtime::comes_before("p", "p"));
  CHECK(runtime::comes_before("07", "7"));
  CHECK_FALSE(runtime::comes_before("7", "07"));
}

TEST_CASE("arrays of .npy and safetensors files become the file that a run would have written") {
  const test::TempFolder folder;
  test::SampleRun run = test::sample_run();
  const std::string output = (folder / "imported.h5").string();

  run.set_dtype(Dtype::f32);
  const std::string npy_files = folder_of(folder, "npy");
  for (std::int64_t prompt = 0; prompt < 3; ++prompt) {
    const std::string here = folder_of(folder, text("npy/", prompt + 9).c_str());
    const std::int64_t first = run.layout.prompts.cu_seqlens[static_cast<std::size_t>(prompt)];
    const std::int64_t rows = run.layout.prompts.length(prompt);
    for (std::size_t point = 0; point < 6; ++point) {
      const std::string data = values(run, point, first, rows, Dtype::f32);
      test::write_all(here + "/" + run.layout.points[point].point.name + ".npy",
                      npy("<f4", text("(1, ", rows, ", 24)"), data));
    }
    test::write_all(here + "/input_ids.npy", npy("<i8", text("(", rows, ",)"), ids_text(run, prompt)));
  }
  check_same(folder, run, {.sources = {npy_files}, .map = {}, .output = output}, 6);

  // All prompts end to end, in ml_dtypes' bfloat16, by names of another engine.
  run.set_dtype(Dtype::bf16);
  const std::string v2 = folder_of(folder, "v2");
  for (std::size_t point = 0; point < 5; ++point) {
    test::write_all(text(v2, "/hs_", point, ".npy"), npy("<V2", "(13, 24)", values(run, point, 0, 13, Dtype::bf16)));
  }
  test::write_all(folder / "ids.json", "[[100,101,102,103,104],[105],[106,107,108,109,110,111,112]]");
  ImportOptions options = {.sources = {v2},
                           .map = {"hs_0 = model.embed_tokens", "hs_{layer} = model.layers.{layer-1}"},
                           .input_ids_file = (folder / "ids.json").string(),
                           .output = output,
                           .if_exists = store::Writer::IfExists::overwrite};
  check_same(folder, run, options, 5);

  // One safetensors file a prompt, its tensors named as points; and vLLM's, whose layers lie beside each other.
  const std::string tensors = folder_of(folder, "tensors"), vllm = folder_of(folder, "vllm");
  for (std::int64_t prompt = 0; prompt < 3; ++prompt) {
    const std::int64_t first = run.layout.prompts.cu_seqlens[static_cast<std::size_t>(prompt)];
    const std::int64_t rows = run.layout.prompts.length(prompt);
    const Tensor ids = {"input_ids", "I64", {1, rows}, ids_text(run, prompt)};
    std::vector<Tensor> all = {ids};
    for (std::size_t point = 0; point < 6; ++point) {
      all.push_back(
          {run.layout.points[point].point.name, "BF16", {rows, 24}, values(run, point, first, rows, Dtype::bf16)});
    }
    test::write_all(text(tensors, "/", prompt, ".safetensors"), safetensors(all));
    std::string beside;
    for (std::int64_t row = first; row < first + rows; ++row) {
      for (const std::size_t point : {4u, 0u, 2u}) beside += values(run, point, row, 1, Dtype::bf16);
    }
    test::write_all(text(vllm, "/cmpl-", 9 - prompt, ".safetensors"),
                    safetensors({{"hidden_states", "BF16", {rows, 3, 24}, beside},
                                 {"token_ids", "I64", {rows}, ids_text(run, prompt)}}));
  }
  options = {.sources = {tensors}, .map = {}, .output = output, .if_exists = store::Writer::IfExists::overwrite};
  check_same(folder, run, options, 6);
  options.sources = {vllm};
  options.vllm_layers = "4,0,2";
  options.engine = "vllm 0.22.0";
  check_same(folder, run, options, 3);
  CHECK(std::get<std::string>(store::Reader(output).attributes().at("engine")) == "vllm 0.22.0");
  CHECK(std::get<std::string>(store::Reader(output).attributes().at("dtype")) == "bfloat16");
}

TEST_CASE("the last token's rows, and experts' numbers as int64, are imported") {
  const test::TempFolder folder;
  const std::string here = folder_of(folder, "last");
  test::write_all(here + "/model.layers.1.mlp:topk_indices.npy",
                  npy("<i8", "(2, 2)", test::raw(std::vector<std::int64_t>{3, 1, 7, 0})));
  test::write_all(folder / "ids.json", "[[5,6,7],[8]]");
  const ImportOptions options = {.sources = {here},
                                 .map = {},
                                 .input_ids_file = (folder / "ids.json").string(),
                                 .tokens = "last",
                                 .output = (folder / "last.h5").string()};
  CHECK(runtime::import_arrays(options).has_input_ids);
  const store::Reader reader(options.output);
  CHECK(reader.rows().position == std::vector<std::int32_t>{2, 0});
  std::vector<std::int32_t> ids(4);
  reader.read_rows(0, 0, 2, std::as_writable_bytes(std::span(ids)));
  CHECK(ids == std::vector<std::int32_t>{3, 1, 7, 0});
}

TEST_CASE("what makes no run is refused with the file and what was expected, and nothing is written") {
  const test::TempFolder folder;
  const std::string f4 = test::raw(std::vector<float>(8));
  int number = 0;
  const auto refused = [&](const std::vector<std::pair<std::string, std::string>>& files, ImportOptions options,
                           const char* message) {
    CAPTURE(message);
    const std::string here = folder_of(folder, text("case", number++).c_str());
    for (const auto& [name, content] : files) {
      std::filesystem::create_directories(std::filesystem::path(here + "/" + name).parent_path());
      test::write_all(here + "/" + name, content);
    }
    options.sources = {here};
    options.output = (folder / "out.h5").string();
    CHECK_THROWS_WITH_AS(runtime::import_arrays(options), doctest::Contains(message), Error);
    CHECK_FALSE(std::filesystem::exists(options.output));
    CHECK_FALSE(std::filesystem::exists(options.output + ".partial"));
  };
  const std::string good = npy("<f4", "(2, 4)", f4);
  refused({}, {}, "holds no .npy and no .safetensors file");
  refused({{"other.npy", good}}, {}, "no array's name is that of a point; there are other");
  refused({{"model.norm.npy", "x"}}, {}, "is no .npy file");
  refused({{"model.norm.npy", npy(">f4", "(2, 4)", f4)}}, {}, "not little-endian");
  refused({{"model.norm.npy", npy("<u2", "(2, 4)", f4)}}, {}, "holds numpy's 'u2'");
  refused({{"model.norm.npy", npy("<c8", "(1, 4)", f4)}}, {}, "holds numpy's 'c8'");
  refused({{"model.norm.npy", npy("<f4", "(2, 4)", f4, "True")}}, {}, "is in Fortran order");
  refused({{"model.norm.npy", npy("<f4", "(200, 4)", f4)}}, {}, "is cut off: it says [200, 4]");
  for (const std::string& shape :
       {std::string("(2, 4"), std::string("2, 4)"), std::string("(2 4)"), std::string("(-2, 4)"),
        std::string("(1, 1, 1, 1, 1, 1, 1, 2, 4)"), std::string("(1111111111111111, 1)"),
        "(" + std::string(3000, '1') + ")", "(" + std::string(3000, ' ') + "x"}) {
    refused({{"model.norm.npy", npy("<f4", shape, f4)}}, {}, "has no shape of at most 8 axes");
  }
  refused({{"model.norm.npy", npy("<f4", "(2, 2, 2)", f4)}}, {}, "has shape [2, 2, 2]; expected [tokens, width]");
  refused({{"model.norm.npy", npy("<f4", "(0, 4)", "")}}, {}, "has shape [0, 4]");
  refused({{"model.norm.npy", good}}, {.map = {"{bad"}}, "a { has no }");
  refused({{"model.norm.npy", good}}, {.tokens = "mean"}, "is neither all nor last");
  refused({{"model.norm.npy", good}}, {.dtype = "fp8"}, "is none of bfloat16");
  refused({{"a/model.norm.npy", good}, {"model.norm.npy", good}}, {}, "is of all prompts, and");
  refused({{"a/model.norm.npy", good}, {"b/model.layers.0.npy", good}}, {},
          "prompt a has no model.layers.0, which others have");
  refused({{"a/model.norm.npy", good}, {"b/model.norm.npy", npy("<f4", "(4, 2)", f4)}}, {}, "is F32 [4, 2] where");
  refused({{"model.norm.npy", good}, {"input_ids.npy", npy("<i8", "(1,)", test::raw(std::int64_t{5}))}}, {},
          "has 2 rows where the input has 1, one a token");
  refused({{"model.norm.npy", good}, {"input_ids.npy", npy("<i8", "(1,)", test::raw(std::int64_t{-5}))}}, {},
          "element 0 is -5; expected a token id");
  refused({{"model.norm.npy", good}, {"input_ids.npy", npy("<f4", "(2,)", f4.substr(0, 8))}}, {}, "token ids are I32");
  refused({{"x.safetensors", "no header"}}, {}, "x.safetensors");
  refused({{"x.safetensors", safetensors({{"model.norm", "F8_E4M3", {2, 4}, "12345678"}})}}, {}, "holds F8_E4M3");
  const std::string vllm = safetensors({{"hidden_states", "F32", {1, 2, 4}, f4}});
  refused({{"x.safetensors", vllm}}, {.vllm_layers = "1"}, "has shape [1, 2, 4] where --vllm-layers names 1 layers");
  refused({{"x.safetensors", vllm}}, {.vllm_layers = "1,1"}, "names 1 twice");
  refused({{"x.safetensors", vllm}}, {.vllm_layers = "1,x"}, "\"x\" is no layer id");
  refused({{"model.norm.npy", good}}, {.vllm_layers = "1"}, "holds no tensor hidden_states");

  const std::string wide = folder_of(folder, "wide");
  test::write_all(wide + "/model.layers.1.mlp:topk_indices.npy",
                  npy("<i8", "(1, 1)", test::raw(std::int64_t{1} << 40)));
  const test::Finished finished = test::run_layerprobe({"import", (folder / "wide.h5").string(), wide});
  CHECK(finished.exit_code == 2);
  CHECK(finished.err.find("holds 1099511627776, which is no int32") != std::string::npos);
  CHECK_FALSE(std::filesystem::exists(folder / "wide.h5"));
  CHECK_FALSE(std::filesystem::exists(folder / "wide.h5.partial"));
}

TEST_CASE("import prints what it wrote and what to know of it") {
  const test::TempFolder folder;
  const std::string here = folder_of(folder, "in");
  test::write_all(here + "/L0.npy", npy("<f4", "(2, 4)", test::raw(std::vector<float>(8))));
  test::write_all(here + "/rest.npy", npy("<f4", "(2, 4)", test::raw(std::vector<float>(8))));
  const std::string out = (folder / "out.h5").string();
  const std::vector<std::string> command = {"import", out, here, "--map", "L{layer} = model.layers.{layer}"};
  const test::Finished finished = test::run_layerprobe(command);
  CAPTURE(finished.err);
  CHECK(finished.exit_code == 0);
  CHECK(finished.out == text("wrote ", out, ": 1 point, 1 prompt, 2 rows, 32 B\n"));
  CHECK(finished.err.find("note: without token ids") != std::string::npos);
  CHECK(finished.err.find("note: left out 1 array that no --map names, the first is rest\n") != std::string::npos);
  const test::Finished again = test::run_layerprobe(command);
  CHECK(again.exit_code == 2);
  CHECK(again.err ==
        text("error: ", out, ": exists already\n  help: --overwrite replaces it; or choose another OUT.h5\n"));
  std::vector<std::string> json = command;
  json.insert(json.end(), {"--overwrite", "--json"});
  CHECK(Json::parse(test::run_layerprobe(json).out, "stdout").find("num_rows")->integer() == 2);

  std::filesystem::rename(out, out + ".partial");
  CHECK(test::run_layerprobe(command).err.find("\n  help: --overwrite starts afresh; or choose another OUT.h5\n") !=
        std::string::npos);
  const std::string array = here + "/L0.npy", before = test::read_all(array);
  const test::Finished swapped = test::run_layerprobe({"import", array, here, "--overwrite"});
  CHECK(swapped.err.find(text(array, ": is an array and the file to be made of them")) != std::string::npos);
  CHECK(test::read_all(array) == before);
}

}  // namespace layerprobe
