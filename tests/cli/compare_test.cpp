#include <doctest/doctest.h>

#include <cstdlib>

#include "base/json.h"
#include "tests/compare/sample.h"
#include "tests/store/sample.h"
#include "tests/support/process.h"

namespace layerprobe {
namespace {

/// The lines of `out`, the last one first.
std::vector<std::string> lines_from_the_end(const std::string& out) {
  std::vector<std::string> lines = split(out, '\n');
  REQUIRE(lines.back().empty());
  lines.pop_back();
  return {lines.rbegin(), lines.rend()};
}

}  // namespace

TEST_CASE("compare gives 0 for the same run and 1 for another, with the verdict last") {
  const test::TempFolder folder;
  test::SampleRun run = test::sample_run();
  const std::string reference = test::write_file(folder / "a.h5", run);
  run.at("model.layers.2", 9, 17) = 3;
  const std::string candidate = test::write_file(folder / "b.h5", run);

  const test::Finished same = test::run_layerprobe({"compare", reference, reference});
  CHECK(same.exit_code == 0);
  CHECK(same.err.empty());
  CHECK(lines_from_the_end(same.out).front() == "agree: 6 points, the same bits");

  const test::Finished other = test::run_layerprobe({"compare", reference, candidate});
  CHECK(other.exit_code == 1);
  CHECK(other.err.empty());
  CAPTURE(other.out);
  CHECK(lines_from_the_end(other.out).front().starts_with("first divergence: model.layers.2: rel_l2 "));
  CHECK(other.out.find("p2 t3") != std::string::npos);
  CHECK(other.out.find("at p2 t3, channel 17: 3 where the reference has ") != std::string::npos);
  CHECK(other.out.find("FAIL") != std::string::npos);

  CHECK(test::run_layerprobe({"compare", reference, candidate, "--max-rel-l2", "0.9"}).exit_code == 0);
  CHECK(test::run_layerprobe({"compare", reference, candidate, "--max-rel-l2", "0.9", "--exact"}).exit_code == 1);
  CHECK(test::run_layerprobe({"compare", reference, candidate, "--points", "model.norm,model.layers.3"}).exit_code ==
        0);
  CHECK(test::run_layerprobe({"compare", "--points", "**layers.*", reference, candidate}).exit_code == 1);
}

TEST_CASE("compare --json is an object a line, each with its type") {
  const test::TempFolder folder;
  test::SampleRun run = test::sample_run();
  const std::string reference = test::write_file(folder / "a.h5", run);
  run.at("model.layers.2", 9, 17) = std::numeric_limits<double>::quiet_NaN();
  run.at("model.layers.3", 9, 17) = 3;
  const std::string candidate = test::write_file(folder / "b.h5", run);
  const test::Finished finished = test::run_layerprobe({"compare", "--json", reference, candidate});
  CHECK(finished.exit_code == 1);
  std::vector<Json> lines;
  for (const std::string& line : split(finished.out, '\n')) {
    if (!line.empty()) lines.push_back(Json::parse(line, "stdout"));
  }
  REQUIRE(lines.size() == 8);
  CHECK(lines.front().find("type")->string() == "config");
  CHECK(lines.front().find("candidate")->find("path")->string() == candidate);
  const Json& summary = lines.back();
  CHECK(summary.find("type")->string() == "summary");
  CHECK(summary.find("agrees")->boolean() == false);
  CHECK(summary.find("first_divergence")->string() == "model.layers.2");
  CHECK(summary.find("passing_max_rel_l2")->string() == "Infinity");
  CHECK(summary.find("finding")->find("layer")->integer() == 2);
  CHECK(summary.find("finding")->find("kind")->string() == "non-finite");
  const Json& nan = lines[4];
  CHECK(nan.find("unmatched_non_finite")->integer() == 1);
  CHECK(nan.find("first_unmatched")->find("candidate")->string() == "NaN");
  const Json& element = lines[5];
  CHECK(element.find("point")->string() == "model.layers.3");
  CHECK(element.find("max_abs_at")->find("channel")->integer() == 17);
  CHECK(element.find("max_abs_at")->find("candidate")->number() == 3);
  CHECK(element.find("worst_token")->find("prompt")->integer() == 2);
  CHECK(element.find("reference_dtype")->string() == "bfloat16");
  CHECK(test::run_layerprobe({"compare", reference, candidate, "--report", (folder / "lines").string()}).exit_code ==
        1);
  CHECK(test::read_all(folder / "lines") == finished.out);
}

TEST_CASE("compare --html writes one page that loads nothing, whatever the files say") {
  const test::TempFolder folder;
  test::SampleRun run = test::sample_run();
  run.layout.identity["model_type"] = "</script><script>alert(1)</script>";
  const std::string reference = test::write_file(folder / "a.h5", run);
  run.at("model.layers.2", 9, 17) = 3;
  const std::string candidate = test::write_file(folder / "b.h5", run);
  const std::string page = (folder / "page.html").string();
  const test::Finished finished = test::run_layerprobe({"compare", reference, candidate, "--html", page});
  CHECK(finished.exit_code == 1);
  CHECK(lines_from_the_end(finished.out).front().starts_with("first divergence: model.layers.2"));
  const std::string html = test::read_all(page);
  CHECK(html.find("first divergence: model.layers.2") != std::string::npos);
  CHECK(html.find("alert(1)") != std::string::npos);
  CHECK(html.find("</script><script>alert") == std::string::npos);
  for (const char* loads : {"src=", "href=", "@import", "fetch(", "url("}) CHECK(html.find(loads) == std::string::npos);
  const std::size_t begin = html.find("id=\"data\">") + 10;
  const Json data = Json::parse(html.substr(begin, html.find("</script>", begin) - begin), "page");
  CHECK(data.find("heat")->find("columns")->integer() == 13);
  CHECK(data.find("points")->items().size() == 6);
  CHECK(data.find("finding")->find("point")->string() == "model.layers.2");
}

TEST_CASE("a report takes no capture's place, and stands under its name only when it is whole") {
  const test::TempFolder folder;
  const std::string file = test::write_file(folder / "a.h5", test::sample_run());
  const std::string before = test::read_all(file);
  for (const char* option : {"--html", "--report"}) {
    const test::Finished refused = test::run_layerprobe({"compare", file, file, option, file});
    CHECK(refused.exit_code == 2);
    CHECK(refused.err == std::string("error: ") + option + " " + file +
                             ": is an HDF5 file, which a report does not replace\n  help: name another file\n");
    CHECK(test::read_all(file) == before);
  }
  test::SampleRun other = test::sample_run();
  other.layout.prompts.input_ids.front() += 1;
  const std::string no_match = test::write_file(folder / "b.h5", other);
  const std::string page = folder.write("page.html", "an older one").string();
  CHECK(test::run_layerprobe({"compare", file, no_match, "--html", page}).exit_code == 2);
  CHECK(test::read_all(page) == "an older one");
  CHECK(test::run_layerprobe({"compare", file, file, "--html", page}).exit_code == 0);
  CHECK(test::read_all(page).starts_with("<!DOCTYPE html>"));
  CHECK(std::distance(std::filesystem::directory_iterator(folder.path()), {}) == 3);  // nothing beside them
}

TEST_CASE("routers and logits are in the tables, the lines and the page") {
  const test::TempFolder folder;
  test::SampleRun run = test::sample_run();
  run.layout.points.back().point.name = "lm_head";
  const std::vector<double> ids = {0, 1, 2, 3, 4, 5, 6, 7, 0, 1, 2, 3, 4};
  run.layout.points.insert(
      run.layout.points.begin() + 2,
      {.point = {.name = "model.layers.1.mlp:topk_indices", .dtype = Dtype::i32, .width = 1}, .stored = true});
  run.values.insert(run.values.begin() + 2, ids);
  const std::string reference = test::write_file(folder / "a.h5", run);
  run.at("model.layers.1.mlp:topk_indices", 9, 0) = 7;
  run.at("lm_head", 9, 17) = 3;  // the most likely one now
  const std::string candidate = test::write_file(folder / "b.h5", run);
  const std::string page = (folder / "page.html").string();
  const test::Finished shown = test::run_layerprobe({"compare", reference, candidate, "--html", page});
  CHECK(shown.exit_code == 1);
  CAPTURE(shown.out);
  CHECK(shown.out.find("routing: 0 of 1 router sent every token to the same experts\n") != std::string::npos);
  CHECK(shown.out.find("layer 1        1         7.69 %  92.31 %            -") != std::string::npos);
  CHECK(shown.out.find("lm_head: the same most likely token in 12 of 13 rows, ") != std::string::npos);
  const std::string html = test::read_all(page);
  const std::size_t begin = html.find("id=\"data\">") + 10;
  const Json data = Json::parse(html.substr(begin, html.find("</script>", begin) - begin), "page");
  const Json::Array& more = data.find("more")->items();
  REQUIRE(more.size() == 2);
  CHECK(more[0].find("title")->string() == "Routing flips");
  CHECK(more[0].find("bars")->integer() == 1);
  CHECK(more[0].find("rows")->items().front().items()[1].number() == doctest::Approx(100.0 / 13));
  CHECK(more[1].find("title")->string() == "Next tokens");
  for (const Json& part : more) {
    CHECK(part.find("rows")->items().front().items().size() == part.find("columns")->items().size());
  }
  CHECK(data.find("heat")->find("points")->items().size() == 6);  // numbers of experts are no error's size
  const test::Finished lines = test::run_layerprobe({"compare", "--json", reference, candidate});
  const Json router = Json::parse(split(lines.out, '\n')[3], "stdout");
  CHECK(router.find("routing")->find("num_rerouted")->integer() == 1);
  CHECK(router.find("routing")->find("margin_max")->is_null());
  const Json logits = Json::parse(split(lines.out, '\n')[7], "stdout");
  CHECK(logits.find("logits")->find("num_same_top1")->integer() == 12);
  CHECK(logits.find("by_route")->find("num_same")->integer() == 12);
}

TEST_CASE("compare says what it left out") {
  const test::TempFolder folder;
  test::SampleRun run = test::sample_run();
  const std::string reference = test::write_file(folder / "a.h5", run);
  for (const char* name : {"model.layers.2", "model.layers.3", "model.norm"}) run.remove(name);
  run.incomplete = {{1, 2}};
  const std::string candidate = test::write_file(folder / "b.h5", test::only_rows(run, {0, 1, 2, 5, 6, 7, 8}));
  const test::Finished finished = test::run_layerprobe({"compare", reference, candidate});
  CHECK(finished.exit_code == 0);
  CAPTURE(finished.out);
  CHECK(finished.out.find("not compared: only in the reference: model.layers.2 to 3, model.norm\n") !=
        std::string::npos);
  CHECK(finished.out.find("not compared: 6 rows: only in the reference\n") != std::string::npos);
  CHECK(finished.out.find("incomplete in a partial file (1 of model.layers.0") != std::string::npos);
  CHECK(lines_from_the_end(finished.out).front() == "agree: 3 points, the same bits; 3 points not compared");
}

TEST_CASE("what is left uncompared fails where --allow-skip does not name it, and --fail-fast leaves out the rest") {
  const test::TempFolder folder;
  test::SampleRun run = test::sample_run();
  const std::string reference = test::write_file(folder / "a.h5", run);
  run.remove("model.norm");
  run.remove("model.layers.3");
  const std::string fewer = test::write_file(folder / "b.h5", run);
  const auto with = [&](const std::vector<std::string>& more) {
    std::vector<std::string> all = {"compare", reference, fewer};
    all.insert(all.end(), more.begin(), more.end());
    return test::run_layerprobe(all);
  };
  CHECK(with({}).exit_code == 0);
  CHECK(with({"--allow-skip", "model.norm,model.layers.*"}).exit_code == 0);
  const test::Finished missed = with({"--allow-skip", "model.norm"});
  CHECK(missed.exit_code == 1);
  CHECK(lines_from_the_end(missed.out).front() ==
        "not all was compared: model.layers.3 is only in the reference, and no --allow-skip names it");
  CHECK(with({"--allow-skip", ""}).exit_code == 1);

  run.at("model.layers.1", 9, 17) = 3;
  const std::string other = test::write_file(folder / "c.h5", run);
  const test::Finished fast = test::run_layerprobe({"compare", reference, other, "--fail-fast"});
  CHECK(fast.exit_code == 1);
  CHECK(fast.out.find("not compared: behind the first that does not agree (--fail-fast): model.layers.2\n") !=
        std::string::npos);
  CHECK(lines_from_the_end(fast.out).front().starts_with("first divergence: model.layers.1: rel_l2 "));
}

TEST_CASE("compare says that dtypes differ and how it judged") {
  const test::TempFolder folder;
  test::SampleRun run = test::sample_run();
  const std::string reference = test::write_file(folder / "a.h5", run);
  run.set_dtype(Dtype::f32);
  const std::string candidate = test::write_file(folder / "b.h5", run);
  const test::Finished finished = test::run_layerprobe({"compare", reference, candidate});
  CHECK(finished.exit_code == 0);
  CHECK(finished.out.find("bfloat16 and float32: judged after rounding both to bfloat16") != std::string::npos);
  CHECK(finished.out.find("raw_rel_l2") != std::string::npos);
}

TEST_CASE("compare prints the same with any number of threads") {
  const test::TempFolder folder;
  test::SampleRun run = test::sample_run(40);
  constexpr std::int64_t kTokens = 1000;  // many blocks of rows
  run.layout.prompts = {.input_ids = std::vector<std::int32_t>(kTokens, 5), .cu_seqlens = {0, kTokens}, .texts = {}};
  run.layout.rows = {.cu_rows = {0, kTokens}, .position = {}};
  for (std::int32_t token = 0; token < kTokens; ++token) run.layout.rows.position.push_back(token);
  run.set_dtype(Dtype::f32);
  for (std::size_t point = 0; point < run.values.size(); ++point) {
    run.values[point].clear();
    for (std::int64_t i = 0; i < kTokens * 40; ++i) run.values[point].push_back(test::sample_value(point, 0, i, 0) / 3);
  }
  const std::string reference = test::write_file(folder / "a.h5", run);
  std::int64_t i = 0;
  for (auto& values : run.values) {
    for (double& value : values) value *= 1 + 1e-6 * static_cast<double>(++i % 97);
  }
  const std::string candidate = test::write_file(folder / "b.h5", run);
  std::string first;
  for (const char* threads : {"1", "2", "3", "7"}) {
    CAPTURE(threads);
    const char* const before = std::getenv("OMP_NUM_THREADS");
    const std::string kept = before == nullptr ? "" : before;
    ::setenv("OMP_NUM_THREADS", threads, 1);
    const test::Finished finished = test::run_layerprobe({"compare", "--json", reference, candidate});
    before == nullptr ? ::unsetenv("OMP_NUM_THREADS") : ::setenv("OMP_NUM_THREADS", kept.c_str(), 1);
    CHECK(finished.exit_code == 1);
    if (first.empty()) first = finished.out;
    CHECK(finished.out == first);
  }
}

TEST_CASE("compare refuses what it cannot compare with exit status 2 and one message") {
  const test::TempFolder folder;
  test::SampleRun run = test::sample_run();
  const std::string reference = test::write_file(folder / "a.h5", run);
  run.layout.prompts.input_ids[6] = 7;
  const std::string other = test::write_file(folder / "b.h5", run);
  test::write_all(folder / "text.h5", "no HDF5 file");
  const std::vector<std::pair<std::vector<std::string>, std::string>> cases = {
      {{reference, other}, "b.h5: prompt 2 has token id 7 at position 0 where the reference has 106"},
      {{reference, (folder / "none.h5").string()}, "none.h5: no such file"},
      {{reference, folder.path().string()}, "is a folder"},
      {{reference, (folder / "text.h5").string()}, "text.h5"},
      {{reference, reference, "--points", "model.layer.*"}, "no point of either file matches \"model.layer.*\""},
      {{reference, reference, "--max-rel-l2", "-1"}, "--max-rel-l2: -1 is not a number from 0 on"},
      {{reference, reference, "--max-rel-l2", "nan"}, "--max-rel-l2"},
      {{reference, reference, "--max-rel-l2", "x"}, "--max-rel-l2"},
      {{reference, reference, "--threshold", "x"}, "--threshold 'x': there is no"},
      {{reference, reference, "--threshold", "model.layer.*: rel_l2 <= 1"},
       "--threshold 'model.layer.*: rel_l2 <= 1': no point of either file matches the pattern"},
      {{reference, reference, "--baseline", (folder / "none.h5").string()}, "none.h5: no such file"},
      {{reference, reference, "--report", (folder / "no/where").string()}, "cannot be written"},
      {{reference, reference, "--html", (folder / "no/where").string()}, "cannot be written"},
      {{reference, reference, "--dtype", "float32"}, "--blame"},
      {{reference, reference, "--blame", "--model", (folder / "none").string()}, "none"},
      {{reference}, "candidate is required"},
  };
  for (const auto& [arguments, message] : cases) {
    CAPTURE(message);
    std::vector<std::string> all = {"compare"};
    all.insert(all.end(), arguments.begin(), arguments.end());
    const test::Finished finished = test::run_layerprobe(all);
    CAPTURE(finished.err);
    CHECK(finished.exit_code == 2);
    CHECK(finished.out.empty());
    CHECK(finished.err.starts_with("error: "));
    CHECK(finished.err.find(message) != std::string::npos);
    CHECK(finished.err.find("  help: ") != std::string::npos);
  }
}

}  // namespace layerprobe
