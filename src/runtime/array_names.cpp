#include "runtime/array_names.h"

#include <algorithm>
#include <charconv>

#include "base/error.h"
#include "base/text.h"

namespace layerprobe::runtime {
namespace {

constexpr std::size_t kMaxName = 1024;
constexpr std::string_view kInputIds = "input_ids";

Error wrong(std::string_view given, std::string what) {
  return Error(
      {.kind = ErrorKind::usage,
       .where = text("--map '", given, "'"),
       .what = std::move(what),
       .fix = "write it as 'NAME = POINT', for instance 'layer_{layer}_prompt_{prompt} = model.layers.{layer}'"});
}

bool is_digit(char c) { return c >= '0' && c <= '9'; }

}  // namespace

std::vector<NamePattern::Piece> NamePattern::pieces_of(std::string_view given, std::string_view side, bool is_left) {
  std::vector<Piece> pieces;
  const auto add_text = [&](char c) {
    if (pieces.empty() || pieces.back().kind != Piece::Kind::text) pieces.push_back({});
    pieces.back().text += c;
  };
  for (std::size_t i = 0; i < side.size(); ++i) {
    if (is_left && side[i] == '*') {
      pieces.push_back({.kind = Piece::Kind::any});
    } else if (side[i] != '{') {
      add_text(side[i]);
    } else {
      const std::size_t end = side.find('}', i);
      if (end == side.npos) throw wrong(given, "a { has no }");
      const std::string_view word = side.substr(i + 1, end - i - 1);
      Piece piece;
      if (word == "point") {
        piece.kind = Piece::Kind::point;
      } else if (word == "prompt" && is_left) {
        piece.kind = Piece::Kind::prompt;
      } else if (word.starts_with("layer")) {
        piece.kind = Piece::Kind::layer;
        std::string_view offset = word.substr(5);
        if (!offset.empty()) {
          if (offset.front() == '+') offset.remove_prefix(1);
          const auto [at, problem] = std::from_chars(offset.data(), offset.data() + offset.size(), piece.offset);
          const bool is_number = problem == std::errc{} && at == offset.data() + offset.size();
          if (is_left || !is_number || piece.offset < -100000 || piece.offset > 100000) {
            throw wrong(given, text("\"{", word, "}\" is neither {layer} nor, behind the =, {layer+N} or {layer-N}"));
          }
        }
      } else {
        throw wrong(given, text("\"{", word, "}\" stands where {layer}, {point}", is_left ? " or {prompt}" : "",
                                " is expected"));
      }
      const bool is_twice =
          is_left && std::ranges::any_of(pieces, [&](const Piece& each) { return each.kind == piece.kind; });
      if (is_twice) throw wrong(given, text("{", word, "} stands twice"));
      pieces.push_back(std::move(piece));
      i = end;
    }
  }
  return pieces;
}

NamePattern::NamePattern(std::string_view given) {
  const std::size_t equals = given.find(" = ");
  const std::string_view left = trimmed(given.substr(0, equals));
  const std::string_view right = equals == given.npos ? "{point}" : trimmed(given.substr(equals + 3));
  if (left.empty() || right.empty()) throw wrong(given, "one side of it is empty");
  left_ = pieces_of(given, left, /*is_left=*/true);
  right_ = pieces_of(given, right, /*is_left=*/false);
  has_slash_ = left.find('/') != left.npos;
  const auto on_left = [&](Piece::Kind kind) {
    return std::ranges::any_of(left_, [&](const Piece& each) { return each.kind == kind; });
  };
  has_prompt_ = on_left(Piece::Kind::prompt);
  for (const Piece& each : right_) {
    if (each.kind == Piece::Kind::text || on_left(each.kind)) continue;
    throw wrong(given, each.kind == Piece::Kind::layer ? "{layer} stands behind the = and not before it"
                                                       : "{point} stands behind the = and not before it");
  }
}

bool NamePattern::matches(const std::vector<Piece>& pieces, std::size_t piece, std::string_view rest, Found& found) {
  if (piece == pieces.size()) return rest.empty();
  const Piece& here = pieces[piece];
  if (here.kind == Piece::Kind::text) {
    return rest.starts_with(here.text) && matches(pieces, piece + 1, rest.substr(here.text.size()), found);
  }
  std::size_t most = 0;
  const bool is_number = here.kind == Piece::Kind::layer;
  while (most < rest.size() && (is_number ? is_digit(rest[most]) : rest[most] != '/')) ++most;
  if (is_number) most = std::min<std::size_t>(most, 6);
  const std::size_t least = here.kind == Piece::Kind::any ? 0 : 1;
  for (std::size_t length = most + 1; length-- > least;) {
    const std::string_view taken = rest.substr(0, length);
    if (here.kind == Piece::Kind::layer) found.layer = taken;
    if (here.kind == Piece::Kind::prompt) found.prompt = taken;
    if (here.kind == Piece::Kind::point) found.point = taken;
    if (matches(pieces, piece + 1, rest.substr(length), found)) return true;
  }
  return false;
}

std::optional<NamePattern::Match> NamePattern::match(std::string_view name) const {
  if (name.size() > kMaxName) return std::nullopt;
  if (!has_slash_) name = name.substr(name.rfind('/') + 1);
  Found found;
  if (!matches(left_, 0, name, found)) return std::nullopt;
  Match out;
  if (has_prompt_) out.prompt = std::string(found.prompt);
  for (const Piece& each : right_) {
    if (each.kind == Piece::Kind::text) {
      out.point += each.text;
    } else if (each.kind == Piece::Kind::point) {
      out.point += found.point;
    } else {
      std::int64_t layer = 0;
      std::from_chars(found.layer.data(), found.layer.data() + found.layer.size(), layer);
      layer += each.offset;
      if (layer < 0) return std::nullopt;
      out.point += std::to_string(layer);
    }
  }
  return out;
}

bool comes_before(std::string_view a, std::string_view b) {
  std::size_t i = 0, j = 0;
  while (i < a.size() && j < b.size()) {
    if (!is_digit(a[i]) || !is_digit(b[j])) {
      if (a[i] != b[j]) return a[i] < b[j];
      ++i, ++j;
      continue;
    }
    const auto number_at = [](std::string_view from, std::size_t& at) {
      while (at < from.size() && from[at] == '0') ++at;
      const std::size_t begin = at;
      while (at < from.size() && is_digit(from[at])) ++at;
      return from.substr(begin, at - begin);
    };
    const std::string_view x = number_at(a, i), y = number_at(b, j);
    if (x.size() != y.size()) return x.size() < y.size();
    if (x != y) return x < y;
  }
  if (i == a.size() && j == b.size()) return a < b;  // "07" and "7"
  return i == a.size();
}

}  // namespace layerprobe::runtime
