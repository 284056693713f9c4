#include <doctest/doctest.h>
#include <fcntl.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <string>
#include <utility>
#include <vector>

#include "cli/usage.h"
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
  CHECK(test::run_layerprobe({"help"}).out == help.out);
  CHECK(test::run_layerprobe({"help", "merge"}).out == test::run_layerprobe({"merge", "--help"}).out);
}

TEST_CASE("an unknown option is one message with the nearest name, and exit status 2") {
  const test::Finished finished = test::run_layerprobe({"compare", "a.h5", "b.h5", "--max-rel-l3", "1"});
  CHECK(finished.exit_code == 2);
  CHECK(finished.out.empty());
  CHECK(finished.err ==
        "error: --max-rel-l3: no such option or argument of layerprobe compare; did you mean --max-rel-l2?\n"
        "  help: layerprobe compare --help lists the options\n");
}

TEST_CASE("an unknown command or option is told before what is missing for want of it") {
  CHECK(test::run_layerprobe({"inspct", "a.h5"}).err ==
        "error: inspct: no such option or argument of layerprobe run; did you mean inspect?\n"
        "  help: layerprobe run --help lists the options\n");
  CHECK(test::run_layerprobe({"run", "--modle", "m"}).err.starts_with("error: --modle: no such option"));
}

TEST_CASE("no argument at all is an error that points to the help") {
  const test::Finished finished = test::run_layerprobe({});
  CHECK(finished.exit_code == 2);
  CHECK(finished.out.empty());
  CHECK(finished.err.starts_with("error: "));
  CHECK(finished.err.ends_with("help: layerprobe --help lists the options\n"));
}

TEST_CASE("--print-config prints what was given and the defaults, as --config takes them back") {
  const std::vector<std::string> given = {"run",       "--model",      "no-such-folder",
                                          "--prompt",  "Yes, [no]?",   "--prompt",
                                          "-x # y",    "--prompt",     "it's \"so\"\n\\",
                                          "--dtype",   "float32",      "--layers",
                                          "-1",        "--max-memory", R"({"cuda:0": "10GB"})",
                                          "--capture", "a.*,b",        "--tokens-per-batch",
                                          "77",        "--shard",      "0/2",
                                          "--json",    "--overwrite",  "--print-config"};
  const test::Finished printed = test::run_layerprobe(given);
  REQUIRE(printed.exit_code == 0);
  CHECK(printed.out.starts_with("[run]\n"));
  CHECK(printed.out.find("\ndtype = \"float32\"\n") != std::string::npos);
  CHECK(printed.out.find("\ntest-type = \"extract-all\"\n") != std::string::npos);
  CHECK(printed.out.find("\noverwrite = true\n") != std::string::npos);
  CHECK(printed.out.find("\nmax-memory = '{\"cuda:0\": \"10GB\"}'\n") != std::string::npos);
  CHECK(printed.out.find("\nprompt = [\"Yes, [no]?\", \"-x # y\", \"it's \\\"so\\\"\\u000a\\\\\"]\n") !=
        std::string::npos);
  CHECK(printed.out.find("resume") == std::string::npos);

  const test::TempFolder folder;
  const std::filesystem::path file = folder.write("options.toml", printed.out);
  const test::Finished again = test::run_layerprobe({"run", "--config", file.string(), "--print-config"});
  CHECK(again.err == "");
  CHECK(again.out == printed.out);
}

TEST_CASE("an option is taken from the command line, else the file, else the environment, else it has its default") {
  const test::TempFolder folder;
  const std::string file =
      folder
          .write("options.toml",
                 "model = \"of the file\"\ndevice_map = \"of the file\"\n[plan]\nmax-memory = \"3GB\"\n")
          .string();
  const auto printed = [](std::vector<std::string> arguments) {
    arguments.insert(arguments.end(), {"--prompt", "p", "--print-config"});
    const test::Finished finished = test::run_layerprobe(arguments);
    CHECK(finished.err == "");
    return finished.out;
  };
  const auto holds = [](const std::string& config, const char* line) {
    CAPTURE(config);
    return config.find(std::string("\n") + line + "\n") != std::string::npos;
  };
  struct Environment {
    Environment() {
      ::setenv("MODEL_PATH", "of the environment", 1);
      ::setenv("DEVICE_MAP", "of the environment", 1);
      ::setenv("MAX_MEMORY", "of the environment", 1);
    }
    ~Environment() {
      for (const char* name : {"MODEL_PATH", "DEVICE_MAP", "MAX_MEMORY"}) ::unsetenv(name);
    }
  };
  {
    const Environment environment;
    std::string config = printed({"run", "--config", file, "--model", "of the command line"});
    CHECK(holds(config, "model = \"of the command line\""));
    CHECK(holds(config, "device-map = \"of the file\""));
    CHECK(holds(config, "max-memory = \"of the environment\""));  // the table of plan is not run's
    CHECK(holds(config, "dtype = \"auto\""));
    config = printed({"plan", "--config", file});
    CHECK(holds(config, "model = \"of the file\""));
    CHECK(holds(config, "max-memory = \"3GB\""));
    config = printed({"run"});
    for (const char* name : {"model", "device-map", "max-memory"}) {
      CHECK(holds(config, (std::string(name) + " = \"of the environment\"").c_str()));
    }
  }
  CHECK(holds(printed({"run", "--model", "m"}), "device-map = \"auto\""));
  CHECK(test::run_layerprobe({"run", "--print-config"}).err.starts_with("error: --model"));
}

TEST_CASE("a file of options that cannot be is refused with its line") {
  const test::TempFolder folder;
  const auto many = [](const std::string& part, int count) {
    std::string out;
    for (int i = 0; i < count; ++i) out += part;
    return out;
  };
  for (const auto& [contents, message] : std::vector<std::pair<std::string, std::string>>{
           {"model = \"m\"\ndtpye = \"float32\"\n", "line 2: \"dtpye\" is no option\n  help: did you mean dtype?\n"},
           {"[run]\ngpus = \"8x80GiB\"\n", "line 2: \"gpus\" is no option\n"},
           {"[rum]\nmodel = \"m\"\n", "line 1: \"rum\" is no command\n"},
           {"\n\nmodel = \n", "line 3: is no TOML: "},
           {"model = \"m\"\nmodel = \"n\"\n", "line 2: is no TOML: "},
           {"model = 1979-05-27\n", "line 1: \"model\" is neither text nor a number\n"},
           {"overwrite = \"yes\"\n", "line 1: \"overwrite\" is true or false\n"},
           {"prompt = [[1]]\n", "line 1: \"prompt\" is neither text nor a number\n"},
           {"version = true\n", "line 1: \"version\" is no option\n"},
           {"tokens-per-batch = 0\n", "--tokens-per-batch"},
           {"overwrite = true\nresume = true\n", "excludes"},
           {"[=]\n", "line 1: is no TOML: "},
           {"[.a]\n", "line 1: is no TOML: "},
           {std::string(300, '['), "line 1: is no TOML: "},
           {"prompt = " + std::string(300, '['), "line 1: is no TOML: "},
           {"\n" + many("a.", 1'000'000) + "b = 1\n", "line 2: has more than 500 dots between words"},
           {"x = 1\n[ " + many("'a' . ", 500'000) + "b]\n", "line 2: has more than 500 dots between words"}}) {
    CAPTURE(contents.substr(0, 100));
    const std::string file = folder.write("options.toml", contents).string();
    const test::Finished finished = test::run_layerprobe({"run", "--model", "m", "--prompt", "p", "--config", file});
    CHECK(finished.exit_code == 2);
    CHECK(finished.err.starts_with("error: "));
    CHECK(finished.err.find(message) != std::string::npos);
  }
}

TEST_CASE("bash completes commands, options and what they take") {
  const test::TempFolder folder;
  const test::Finished script = test::run_layerprobe({"completion", "bash"});
  REQUIRE(script.exit_code == 0);
  const std::string file = folder.write("completion", script.out).string();
  const std::string driver = folder
                                 .write("driver",
                                        "source \"$1\"\nshift\nCOMP_WORDS=(layerprobe \"$@\")\nCOMP_CWORD=$#\n"
                                        "_layerprobe\necho \"${COMPREPLY[*]}\"\n")
                                 .string();
  const auto completed = [&](const std::string& words) {
    REQUIRE(std::system(("bash " + driver + " " + file + " " + words + " >" + file + ".out 2>&1").c_str()) == 0);
    std::ifstream in(file + ".out");
    return std::string(std::istreambuf_iterator<char>(in), {});
  };
  CHECK(completed("m") == "merge man\n");
  CHECK(completed("run --test-type ''") == "single multi full extract-all\n");
  CHECK(completed("--test-type f") == "full\n");  // run may be left out
  CHECK(completed("compare --max") == "--max-rel-l2\n");
  CHECK(completed("plan --gp") == "--gpus\n");
  CHECK(completed("run --gp") == "\n");
  CHECK(completed("merge --resume --ov") == "--overwrite\n");
  CHECK(completed("completion z") == "zsh\n");
  CHECK(completed("run --model mod") == "\n");  // bash completes files then
  const test::Finished zsh = test::run_layerprobe({"completion", "zsh"});
  CHECK(zsh.out.starts_with("#compdef layerprobe\n"));
  const std::string zsh_file = folder.write("_layerprobe", zsh.out).string();
  if (std::system("command -v zsh >/dev/null") == 0) {
    CHECK(std::system(("zsh -n " + zsh_file).c_str()) == 0);
  } else {
    MESSAGE("no zsh: its completions were not read by it");
  }
  CHECK(test::run_layerprobe({"completion", "fish"}).err ==
        "error: completion: there is none for \"fish\"\n  help: name bash or zsh\n");
}

TEST_CASE("the manual page has every command and option of the help") {
  const test::Finished page = test::run_layerprobe({"man"});
  REQUIRE(page.exit_code == 0);
  for (const char* name : {"model", "shard", "metrics", "gpus", "max\\-rel\\-l2", "config", "overwrite"}) {
    CAPTURE(name);
    CHECK(page.out.find(std::string("\\fB\\-\\-") + name + "\\fR") != std::string::npos);
  }
  CHECK(page.out.find(".SH MERGE\n") != std::string::npos);
  CHECK(page.out.find("in the environment: MODEL_PATH") != std::string::npos);
  const test::TempFolder folder;
  const std::string file = folder.write("layerprobe.1", page.out).string();
  if (std::system("command -v man >/dev/null") == 0) {  // it warns of what is no roff
    CHECK(std::system(("test -z \"$(LC_ALL=C.UTF-8 MANWIDTH=80 man --warnings -E UTF-8 -l -Tutf8 -Z " + file +
                       " 2>&1 >/dev/null)\"")
                          .c_str()) == 0);
  } else {
    MESSAGE("no man: whether the page is roff was not tried");
  }
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

TEST_CASE("a limit on the size of files is an error, and leaves no file") {
  const test::TempFolder model, out;
  test::write_tiny_model(model);
  rlimit before{};
  REQUIRE(::getrlimit(RLIMIT_FSIZE, &before) == 0);
  rlimit small = before;
  small.rlim_cur = 20000;
  REQUIRE(::setrlimit(RLIMIT_FSIZE, &small) == 0);
  const test::Finished finished = test::run_layerprobe(
      {"--model", model.path().string(), "--random-tokens", "2x3", "--output", (out / "a.h5").string()});
  REQUIRE(::setrlimit(RLIMIT_FSIZE, &before) == 0);
  CHECK(finished.exit_code == 2);
  CHECK(finished.err.starts_with("error: "));
  CHECK(std::filesystem::is_empty(out.path()));
}

TEST_CASE("a path that the file system refuses is told as such, not as a bug") {
  const test::TempFolder folder;
  test::write_tiny_model(folder);
  const std::string name(300, 'x');
  for (const std::vector<std::string>& arguments : std::vector<std::vector<std::string>>{
           {"compare", name, name},
           {"merge", (folder / "merged.h5").string(), name},
           {"--model", folder.path().string(), "--random-tokens", "1x1", "--output", name},
           {"--model", folder.path().string(), "--random-tokens", "1x1", "--output", name.substr(50)}}) {
    const test::Finished finished = test::run_layerprobe(arguments);
    CHECK(finished.exit_code == 2);
    CHECK(finished.err.starts_with("error: xxx"));
    CHECK(finished.err.find(": File name too long\n  help: check the path") != std::string::npos);
  }
}

TEST_CASE("standard streams that the caller closed are held, so that no file of the run gets their numbers") {
  const pid_t child = ::fork();
  REQUIRE(child >= 0);
  if (child == 0) {
    for (int descriptor = 0; descriptor <= 2; ++descriptor) ::close(descriptor);
    cli::hold_standard_streams();
    char byte = 0;
    const bool fails = ::read(0, &byte, 1) == -1 && ::write(1, &byte, 1) == -1 && ::write(2, &byte, 1) == -1;
    ::_exit(fails && ::open("/dev/null", O_RDONLY) > 2 ? 0 : 1);
  }
  int status = -1;
  REQUIRE(::waitpid(child, &status, 0) == child);
  CHECK(status == 0);
}

TEST_CASE("what stands in an error cannot steer the terminal") {
  const test::Finished finished = test::run_layerprobe({"inspect", "no\x1b[31m-such.h5"});
  CHECK(finished.exit_code == 2);
  CHECK(finished.err.starts_with("error: no\\x1b[31m-such.h5: no such file\n  help: "));
}

}  // namespace layerprobe
