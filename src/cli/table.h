#pragma once

#include <cstddef>
#include <iosfwd>
#include <string>
#include <string_view>
#include <vector>

namespace layerprobe::cli {

/// Text in aligned columns, two spaces apart, under a line of their names.
class Table {
 public:
  enum class Align { left, right };
  struct Column {
    std::string name;
    Align align = Align::right;
  };

  explicit Table(std::vector<Column> columns) : columns_(std::move(columns)) {}

  /// One cell a column.
  void add_row(std::vector<std::string> cells);
  std::size_t num_rows() const { return rows_.size(); }

  /// Cells pass through shortened(). No spaces at the end of a line.
  friend std::ostream& operator<<(std::ostream& out, const Table& table);

 private:
  std::vector<Column> columns_;
  std::vector<std::vector<std::string>> rows_;
};

/// `text` with every control character and every byte that is no UTF-8 written as \xNN: what a file says must not
/// steer the terminal.
std::string printable(std::string_view text);
/// printable(), of the first 2000 bytes and how many there are where they are more: a name may be as long as its file.
std::string shortened(std::string_view text);

/// Three digits, for tables: "0", "0.0123", "12.3", "1.23e-05", "nan", "inf".
std::string number_text(double value);
/// As number_text, always with an exponent: "1.23e-05"; "0" for 0.
std::string error_text(double value);
/// With that many decimals: "0.999999".
std::string fixed_text(double value, int decimals);
/// As few digits as give the same f64 again.
std::string exact_text(double value);

}  // namespace layerprobe::cli
