#include "cli/table.h"

#include <doctest/doctest.h>

#include <limits>
#include <sstream>

namespace layerprobe::cli {

TEST_CASE("a table's columns stand under their names, words left and numbers right") {
  Table table({{.name = "point", .align = Table::Align::left}, {.name = "rel_l2"}});
  table.add_row({"model.norm", "0"});
  table.add_row({"é", "1.00e-02"});
  std::ostringstream out;
  out << table;
  CHECK(out.str() ==
        "point         rel_l2\n"
        "model.norm         0\n"
        "é           1.00e-02\n");
}

TEST_CASE("what a file says cannot steer the terminal") {
  CHECK(printable("plain é 漢 😀") == "plain é 漢 😀");
  CHECK(printable("a\x1b[31mb\n") == "a\\x1b[31mb\\x0a");
  CHECK(printable("\xc2\x9b") == "\\xc2\\x9b");                             // an escape sequence's 8-bit beginning
  CHECK(printable("\xe2\x80\xae") == "\\xe2\\x80\\xae");                    // right-to-left override
  CHECK(printable("\xff\xc0\xaf") == "\\xff\\xc0\\xaf");                    // no UTF-8
  CHECK(printable("\xed\xa0\x80\xe2\x82") == "\\xed\\xa0\\x80\\xe2\\x82");  // a surrogate, and one cut off
}

TEST_CASE("what a file says does not fill the terminal") {
  CHECK(shortened(std::string(2000, 'x')) == std::string(2000, 'x'));
  CHECK(shortened(std::string(3000, 'x')) == std::string(2000, 'x') + "... (3000 bytes)");
}

TEST_CASE("numbers are three digits") {
  CHECK(number_text(0) == "0");
  CHECK(number_text(12.345) == "12.3");
  CHECK(number_text(1234.5) == "1234");
  CHECK(number_text(1.2345e-9) == "1.23e-09");
  CHECK(error_text(0.012345) == "1.23e-02");
  CHECK(error_text(std::numeric_limits<double>::quiet_NaN()) == "nan");
}

}  // namespace layerprobe::cli
