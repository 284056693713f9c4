#include "base/bytes.h"

#include <doctest/doctest.h>

#include "base/error.h"

namespace layerprobe {

TEST_CASE("parse_bytes reads decimal and binary units in either case") {
  CHECK(parse_bytes("40GB", "--max-memory") == 40'000'000'000ull);
  CHECK(parse_bytes("75GiB", "--max-memory") == 75ull << 30);
  CHECK(parse_bytes("1gb", "--max-memory") == 1'000'000'000ull);
  CHECK(parse_bytes(" 512 MiB ", "--max-memory") == 512ull << 20);
  CHECK(parse_bytes("1.5kB", "--max-memory") == 1500);
  CHECK(parse_bytes("7", "--max-memory") == 7);
}

TEST_CASE("parse_bytes names the option and what is wrong") {
  for (const char* bad : {"", "GB", "9e99GB", "-1GB", "3 XB", "nan", "inf GB", "1e400"}) {
    CAPTURE(bad);
    CHECK_THROWS_WITH_AS(parse_bytes(bad, "--max-memory"), doctest::Contains("--max-memory"), Error);
  }
}

TEST_CASE("bytes_text keeps three digits") {
  CHECK(bytes_text(0) == "0 B");
  CHECK(bytes_text(999) == "999 B");
  CHECK(bytes_text(1000) == "1.00 kB");
  CHECK(bytes_text(98'362'432) == "98.4 MB");
  CHECK(bytes_text(999'999'999) == "1.00 GB");
}

}  // namespace layerprobe
