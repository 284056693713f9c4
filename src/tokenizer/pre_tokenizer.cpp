#include "tokenizer/pre_tokenizer.h"

#include <algorithm>

#include "tokenizer/unicode.h"

namespace layerprobe::tokenizer {
namespace {

struct Span {
  std::size_t begin, end;
  bool is_match;
};

/// Matches and the gaps between them, with what `begin` is added.
std::vector<Span> spans_of(const std::vector<Pattern::Match>& matches, std::size_t begin, std::size_t end,
                           bool invert) {
  std::vector<Span> spans;
  std::size_t at = begin;
  for (const Pattern::Match& match : matches) {
    if (at < begin + match.begin) spans.push_back({at, begin + match.begin, invert});
    spans.push_back({begin + match.begin, begin + match.end, !invert});
    at = begin + match.end;
  }
  if (at < end) spans.push_back({at, end, invert});
  return spans;
}

/// Appends the pieces. `tokenizers` decides by whether the span before (after, for merged_with_next) was a match, and
/// takes "no match" for before the first; so the second of two touching matches is not merged.
void append_pieces(std::vector<Span> spans, SplitBehavior behavior, std::vector<PreTokenizer::Piece>& pieces) {
  const bool backwards = behavior == SplitBehavior::merged_with_next;
  if (backwards) std::reverse(spans.begin(), spans.end());
  std::vector<PreTokenizer::Piece> made;
  bool previous_is_match = false;
  for (const Span& span : spans) {
    const bool joins = behavior == SplitBehavior::contiguous ? span.is_match == previous_is_match
                       : behavior == SplitBehavior::merged_with_previous || backwards
                           ? span.is_match && !previous_is_match
                           : false;
    previous_is_match = span.is_match;
    if (behavior == SplitBehavior::removed && span.is_match) continue;
    if (joins && !made.empty()) {
      (backwards ? made.back().begin : made.back().end) = backwards ? span.begin : span.end;
    } else {
      made.push_back({span.begin, span.end});
    }
  }
  if (backwards) std::reverse(made.begin(), made.end());
  std::copy_if(made.begin(), made.end(), std::back_inserter(pieces),
               [](const PreTokenizer::Piece& piece) { return piece.begin < piece.end; });
}

using Pieces = PreTokenizer::Pieces;

void apply(const Split& split, Pieces& cut, PatternRun& run) {
  const std::string kinds = split.pattern.kinds_of(cut.text);
  std::vector<PreTokenizer::Piece> pieces;
  std::vector<Pattern::Match> matches;
  for (const PreTokenizer::Piece& piece : cut.pieces) {
    matches.clear();
    split.pattern.find_all(std::string_view(kinds).substr(piece.begin, piece.end - piece.begin), run, matches);
    append_pieces(spans_of(matches, piece.begin, piece.end, split.invert), split.behavior, pieces);
  }
  cut.pieces = std::move(pieces);
}

void apply(const Digits& digits, Pieces& cut, PatternRun&) {
  std::vector<PreTokenizer::Piece> pieces;
  for (const PreTokenizer::Piece& piece : cut.pieces) {
    std::size_t begin = piece.begin;
    bool before = false;  // is what lies before i a digit?
    for (std::size_t i = piece.begin; i < piece.end; ++i) {
      const bool now = numeric_characters().contains(cut.text[i]);
      if (i > begin && (now != before || (now && digits.individual_digits))) {
        pieces.push_back({begin, i});
        begin = i;
      }
      before = now;
    }
    pieces.push_back({begin, piece.end});
  }
  cut.pieces = std::move(pieces);
}

void apply(const PrefixSpace&, Pieces& cut, PatternRun&) {
  std::u32string text;
  for (PreTokenizer::Piece& piece : cut.pieces) {
    const std::size_t begin = text.size();
    if (cut.text[piece.begin] != ' ') text.push_back(' ');
    text.append(cut.text, piece.begin, piece.end - piece.begin);
    piece = {begin, text.size()};
  }
  cut.text = std::move(text);
}

}  // namespace

std::string literal_pattern(std::string_view text) {
  std::string out;
  for (const char c : text) {
    const bool is_plain = (c & 0x80) != 0 || (c >= '0' && c <= '9') || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z');
    if (!is_plain) out.push_back('\\');
    out.push_back(c);
  }
  return out;
}

PreTokenizer::Pieces PreTokenizer::pieces_of(std::u32string_view text, PatternRun& run) const {
  Pieces cut{.text = std::u32string(text), .pieces = {}};
  if (!text.empty()) cut.pieces.push_back({0, text.size()});
  for (const Splitter& splitter : splitters_) {
    std::visit([&](const auto& one) { apply(one, cut, run); }, splitter);
  }
  return cut;
}

}  // namespace layerprobe::tokenizer
