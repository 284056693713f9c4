#include <doctest/doctest.h>

#include <cstdlib>

#include "tests/store/sample.h"
#include "tests/support/places.h"

namespace layerprobe {

using store::Layout;
using store::Reader;
using store::Writer;

TEST_CASE("scripts/layerprobe_h5.py reads what we write, and we read what h5py writes") {
  const char* const chosen = std::getenv("LAYERPROBE_PYTHON");
  const std::string python = chosen != nullptr ? chosen : "python3";
  const test::TempFolder folder;
  const auto run = [&](const std::string& arguments) {
    return std::system(text(python, " ", arguments, " > ", (folder / "out").string(), " 2>&1").c_str());
  };
  if (run("-c 'import h5py, numpy'") != 0) {
    MESSAGE("no h5py for ", python, ": scripts/layerprobe_h5.py is not tried (LAYERPROBE_PYTHON names another Python)");
    return;
  }
  const Layout layout = test::sample_layout();
  test::write_run(folder / "finished.h5", layout);
  Writer stopped(folder / "stopped.h5", layout, Writer::IfExists::refuse);  // and still running
  test::write_prompt(stopped, layout, 0);
  stopped.commit();

  const int status =
      run(text((test::root_folder() / "tests/store/check_layerprobe_h5.py").string(), " ", folder.path().string()));
  CAPTURE(test::read_all(folder / "out"));
  REQUIRE(status == 0);

  const Reader foreign(folder / "foreign.h5");
  CHECK(foreign.is_finished());
  CHECK(foreign.attributes().at("engine") == store::Attribute{"another"});
  REQUIRE(foreign.points().size() == 2);
  CHECK(foreign.points()[0].point == ProbePoint{.name = "model.layers.0", .dtype = Dtype::bf16, .width = 2});
  CHECK(foreign.points()[1].point == ProbePoint{.name = "model.norm", .dtype = Dtype::f16, .width = 2});
  std::vector<std::uint16_t> bits(4);
  foreign.read_rows(0, 1, 2, std::as_writable_bytes(std::span(bits)));
  CHECK(bits == std::vector<std::uint16_t>{2, 3, 4, 5});
}

}  // namespace layerprobe
