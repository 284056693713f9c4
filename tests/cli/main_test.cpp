#include <doctest/doctest.h>
#include <sys/resource.h>

#include <filesystem>
#include <string>

#include "tests/support/process.h"
#include "tests/support/temp_folder.h"
#include "tests/support/tiny_model.h"

namespace layerprobe {

TEST_CASE("--version and --help answer on stdout and succeed") {
  const test::Finished version = test::run_layerprobe({"--version"});
  CHECK(version.exit_code == 0);
  CHECK(version.out.starts_with("layerprobe 0."));
  const test::Finished help = test::run_layerprobe({"--help"});
  CHECK(help.exit_code == 0);
  CHECK(help.out.find("compare") != std::string::npos);
  CHECK(help.err.empty());
}

TEST_CASE("an unknown option is one message with the nearest name, and exit status 2") {
  const test::Finished finished = test::run_layerprobe({"compare", "a.h5", "b.h5", "--max-rel-l3", "1"});
  CHECK(finished.exit_code == 2);
  CHECK(finished.out.empty());
  CHECK(finished.err ==
        "error: --max-rel-l3: no such option or argument of layerprobe compare; did you mean --max-rel-l2?\n"
        "  help: layerprobe compare --help lists the options\n");
}

TEST_CASE("no argument at all is an error that points to the help") {
  const test::Finished finished = test::run_layerprobe({});
  CHECK(finished.exit_code == 2);
  CHECK(finished.out.empty());
  CHECK(finished.err.starts_with("error: "));
  CHECK(finished.err.ends_with("help: layerprobe --help lists the options\n"));
}

TEST_CASE("--print-config prints what was given and the defaults, as --config takes them back") {
  const test::Finished printed =
      test::run_layerprobe({"run", "--model", "no-such-folder", "--prompt", "Yes, [no]?", "--prompt", "-x", "--dtype",
                            "float32", "--overwrite", "--print-config"});
  REQUIRE(printed.exit_code == 0);
  CHECK(printed.out.find("run.dtype=\"float32\"\n") != std::string::npos);
  CHECK(printed.out.find("run.test-type=\"extract-all\"\n") != std::string::npos);
  CHECK(printed.out.find("tokens-per-batch") == std::string::npos);

  const test::TempFolder folder;
  const std::filesystem::path file = folder.write("options.toml", printed.out);
  const test::Finished again = test::run_layerprobe({"run", "--config", file.string(), "--print-config"});
  CHECK(again.err == "");
  CHECK(again.out.find("run.prompt=[\"Yes, [no]?\", \"-x\"]\n") != std::string::npos);
  const auto without_prompts = [](const std::string& config) {  // CLI11 2.4 writes those that were typed as escapes
    const std::size_t start = config.find("run.prompt="), end = config.find('\n', start);
    return config.substr(0, start) + config.substr(end);
  };
  CHECK(without_prompts(again.out) == without_prompts(printed.out));
}

#if !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)  // these take terabytes of addresses for themselves
TEST_CASE("memory that is not there is told as such, not as a bug") {
  const test::TempFolder folder;
  test::write_tiny_model(folder);
  rlimit before{};
  REQUIRE(::getrlimit(RLIMIT_AS, &before) == 0);
  rlimit small = before;
  small.rlim_cur = rlim_t{2} << 30;  // the ids of a billion tokens take twice as much
  REQUIRE(::setrlimit(RLIMIT_AS, &small) == 0);
  const test::Finished finished =
      test::run_layerprobe({"--model", folder.path().string(), "--random-tokens", "1x1000000000", "--output", "none"});
  REQUIRE(::setrlimit(RLIMIT_AS, &before) == 0);
  CHECK(finished.exit_code == 2);
  CHECK(finished.err.find("error: the memory is not enough\n  help: ") != std::string::npos);
}
#endif

TEST_CASE("what stands in an error cannot steer the terminal") {
  const test::Finished finished = test::run_layerprobe({"inspect", "no\x1b[31m-such.h5"});
  CHECK(finished.exit_code == 2);
  CHECK(finished.err.starts_with("error: no\\x1b[31m-such.h5: no such file\n  help: "));
}

}  // namespace layerprobe
