#include "check/check.h"

#include <iostream>
#include <memory>

#include "base/json.h"
#include "base/text.h"
#include "cli/command.h"
#include "cli/common_options.h"
#include "cli/progress.h"
#include "cli/table.h"

namespace layerprobe::cli {
namespace {

constexpr const char* kDefaultTokens = "64x1024";

struct CheckArguments {
  CommonArguments common;
  int level = 1;
};

Json json_of(const check::Report& report) {
  Json items(Json::Array{});
  for (const check::Item& item : report.items) {
    Json out;
    out.set("name", item.name);
    out.set("status", check::name_of(item.status));
    out.set("measured", item.measured);
    out.set("expected", item.expected);
    out.set("advice", item.advice);
    items.push(std::move(out));
  }
  Json out;
  out.set("level", report.level);
  out.set("is_ready", report.is_ready());
  out.set("seconds", report.seconds);
  out.set("items", std::move(items));
  return out;
}

/// What is wrong, with what to do.
void print_wrong(const check::Report& report, check::Status status) {
  for (const check::Item& item : report.items) {
    if (item.status != status) continue;
    std::cout << check::name_of(status) << "  " << shortened(item.name) << ": " << shortened(item.measured) << "\n";
    if (!item.expected.empty()) std::cout << "      expected: " << shortened(item.expected) << "\n";
    if (!item.advice.empty()) std::cout << "      help: " << shortened(item.advice) << "\n";
  }
}

void print(const check::Report& report) {
  print_wrong(report, check::Status::fail);
  print_wrong(report, check::Status::warn);
  Table table({{"status", Table::Align::left}, {"item", Table::Align::left}, {"measured", Table::Align::left}});
  for (const check::Status status : {check::Status::pass, check::Status::skip}) {
    for (const check::Item& item : report.items) {
      if (item.status != status) continue;
      table.add_row({std::string(check::name_of(status)), item.name,
                     item.expected.empty() ? item.measured : text(item.measured, " (", item.expected, ")")});
    }
  }
  std::cout << table << (report.is_ready() ? "ready" : "not ready") << ": " << report.count(check::Status::pass)
            << " passed, " << report.count(check::Status::warn) << " to look at, " << report.count(check::Status::fail)
            << " failed, " << report.count(check::Status::skip) << " not tried; level " << report.level << ", "
            << number_text(report.seconds) << " s\n";
}

ExitCode run(CheckArguments& arguments) {
  check::Options options{.level = arguments.level, .run = finished(arguments.common)};
  runtime::InputOptions& input = options.run.input;
  const bool takes_prompts = options.run.request.test_type == plan::TestType::full ||
                             options.run.request.test_type == plan::TestType::extract_all;
  if (input.kinds() == 0 && takes_prompts) input.random_tokens = kDefaultTokens;
  check::Report report;
  {
    Progress progress(arguments.common.quiet);
    report = check::check(options, progress.watch());
  }
  if (arguments.common.json) {
    std::cout << json_of(report).dump(2) << "\n";
  } else if (!arguments.common.quiet) {
    print(report);
  }
  return report.is_ready() ? ExitCode::success : ExitCode::differs;
}

}  // namespace

void add_check(CLI::App& app, Command& chosen) {
  const auto arguments = std::make_shared<CheckArguments>();
  CLI::App* command = app.add_subcommand(
      "check",
      "Is this machine ready? Takes the options of run, and without --model looks at the machine alone. Exit status 1 "
      "where a run would fail");
  add_common_options(*command, arguments->common);
  command->get_option("--model")->required(false);
  command
      ->add_option("--level", arguments->level,
                   "1: in seconds; 2: rates under load too, in a minute or two; 3: every byte of the checkpoint too")
      ->check(CLI::Range(1, 3))
      ->capture_default_str()
      ->type_name("1|2|3");
  command->callback([&chosen, arguments] { chosen = [arguments] { return run(*arguments); }; });
}

}  // namespace layerprobe::cli
