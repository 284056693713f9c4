#include <csignal>
#include <exception>
#include <filesystem>
#include <iostream>
#include <new>
#include <system_error>

#include "base/error.h"
#include "cli/command.h"
#include "cli/usage.h"

int main(int argc, char** argv) {
  using namespace layerprobe;
  cli::hold_standard_streams();
  std::signal(SIGXFSZ, SIG_IGN);  // a file over the limit (ulimit -f) is an error of its write
  CLI::App app{"Run a model one layer at a time and keep what each layer computed.", "layerprobe"};
  cli::Command chosen;
  cli::add_global_options(app);
  const std::string command_line = cli::command_line_text(argc, argv);
  cli::add_run(app, chosen, command_line);
  cli::add_plan(app, chosen);
  cli::add_merge(app, chosen, command_line);
  cli::add_check(app, chosen);
  cli::add_compare(app, chosen);
  cli::add_import(app, chosen, cli::command_line_text(argc, argv));
  cli::add_inspect(app, chosen);
  cli::add_completion(app, chosen);
  cli::add_man(app, chosen);
  app.require_subcommand(1);
  try {
    app.parse(cli::arguments_for(app, argc, argv));
    if (cli::print_config_if_asked(app)) return static_cast<int>(cli::ExitCode::success);
    const cli::ExitCode answer = chosen();
    cli::finish_stdout();
    return static_cast<int>(answer);
  } catch (const CLI::ParseError& error) {
    return static_cast<int>(cli::report(app, error));  // --help is a ParseError, too
  } catch (const Error& error) {
    return static_cast<int>(cli::report(error));
  } catch (const std::filesystem::filesystem_error& error) {
    return static_cast<int>(cli::report(error));
  } catch (const std::system_error& error) {
    return static_cast<int>(cli::report(error));
  } catch (const std::bad_alloc&) {
    std::cerr << "error: the memory is not enough\n  help: run with a smaller model or input, or on a larger machine\n";
  } catch (const std::exception& error) {
    std::cerr << "internal error: " << error.what() << "\n  help: this is a bug; please report the command\n";
  }
  return static_cast<int>(cli::ExitCode::failed);
}
