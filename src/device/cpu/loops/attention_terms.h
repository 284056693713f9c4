#pragma once

// Queries, keys and values in the form that attention multiplies them in: terms, in panels for loops/tile_product.h.

#include "device/cpu/loops.h"
#include "device/cpu/loops/elementwise.h"
#include "device/cpu/loops/tile_product.h"

namespace layerprobe::device::cpu {
namespace {

inline std::int64_t lesser(std::int64_t a, std::int64_t b) { return a < b ? a : b; }
inline std::int64_t greater(std::int64_t a, std::int64_t b) { return a > b ? a : b; }

template <typename A>
inline std::int64_t padded_head_dim(std::int64_t head_dim) {
  return (head_dim + kPanel<A> - 1) / kPanel<A> * kPanel<A>;
}

/// Ops::Attention::value_head_dim: an inline function of another header.
inline std::int64_t value_head_dim_of(const Ops::Attention& args) {
  return args.value_states.columns / (args.key_states.columns / args.head_dim);
}

/// Each element is a term, in its arithmetic type. An instruction set that multiplies bf16 in pairs has its own such
/// struct for them: loops/bf16_pairs.h.
template <typename Element>
struct SingleTerms {
  using Term = Scalar<Element>;
  static constexpr bool kRoundsWeights = true;

  /// Terms of so many elements.
  static std::int64_t count(std::int64_t elements) { return elements; }

  static void pack_query(Term* to, const Element* query, std::int64_t head_dim) {
    for_each_vector<Element>(head_dim,
                             [&](std::int64_t d, auto access) { access.store(to + d, access.load(query + d)); });
  }
  /// Into one column of a panel whose rows are the terms of head_dim.
  static void pack_key(Term* to, const Element* key, std::int64_t head_dim) {
    for_each_vector<Element>(head_dim, [&](std::int64_t d, auto access) {
      const Vector<Element> part = access.load(key + d);
      for (std::int64_t lane = 0; lane < lesser(kLanes<Element>, head_dim - d); ++lane) {
        to[(d + lane) * kPanel<Term>] = part[lane];
      }
    });
  }
  /// The rows of `values`, one head of some tokens, into the rows of panels whose columns are value_head_dim's.
  static void pack_values(Term* to, std::int64_t panel_stride, const Tensor& values) {
    for (std::int64_t token = 0; token < values.rows; ++token) {
      const Element* value = row_of<const Element>(values, token);
      for (std::int64_t d = 0; d < padded_head_dim<Term>(values.columns); d += kLanes<Element>) {
        const std::int64_t lanes = values.columns - d;
        const Vector<Element> part = lanes >= kLanes<Element> ? load(value + d)
                                     : lanes > 0              ? load_first(value + d, lanes)
                                                              : Vector<Element>{};
        store(to + d / kPanel<Term> * panel_stride + token * kPanel<Term> + d % kPanel<Term>, part);
      }
    }
  }
  /// `keys` rows of a panel of values, zeros for those of keys not in `seen`.
  static void copy_seen_values(Term* to, const Term* values, std::int64_t keys, Rows seen) {
    for (std::int64_t i = 0; i < keys * kPanel<Term>; ++i) {
      const std::int64_t key = i / kPanel<Term>;
      to[i] = key >= seen.first && key < seen.last ? values[i] : 0;
    }
  }
  /// A vector of the weights of the values, rounded to Element, into the row of terms `to`: from `key` on.
  static void store_weights(Term* to, std::int64_t key, Vector<Element> weights) {
    store(to + key, rounded<Element>(weights));
  }
  /// As multiply_panel.
  static void multiply(const Term* a, std::int64_t a_stride, const Term* b, std::int64_t depth, Term* c,
                       std::int64_t c_stride, bool add) {
    multiply_panel(a, a_stride, b, depth, c, c_stride, add);
  }
};

/// The same with weights of the values that are not rounded to Element.
template <typename Element>
struct UnroundedTerms : SingleTerms<Element> {
  using Term = Scalar<Element>;
  static constexpr bool kRoundsWeights = false;

  static void store_weights(Term* to, std::int64_t key, Vector<Element> weights) { store(to + key, weights); }
};

/// Where one head's keys and values of a prompt begin in PackedKeyValues.
template <typename Terms>
struct PackedHead {
  using Term = typename Terms::Term;

  PackedHead(const PackedKeyValues& packed, const Prompt& prompt, std::int64_t key_value_head, std::int64_t dim)
      : keys(static_cast<Term*>(packed.keys) + key_value_head * packed.key_head_stride + prompt.key_offset),
        values(static_cast<Term*>(packed.values) + key_value_head * packed.value_head_stride + prompt.value_offset),
        value_panel_stride(packed.value_panel_stride),
        head_dim(dim) {}

  /// The panel of `token`, counted from the prompt's begin, and in it the token's column.
  Term* key_column(std::int64_t token) const {
    return keys + token / kPanel<Term> * kPanel<Term> * Terms::count(head_dim) + token % kPanel<Term>;
  }
  /// In the panel that has column d of the values, the row of `token`, the first of its term.
  Term* value_row(std::int64_t d, std::int64_t token) const {
    return values + d / kPanel<Term> * value_panel_stride + Terms::count(token) * kPanel<Term>;
  }

  Term* keys;
  Term* values;
  std::int64_t value_panel_stride;
  std::int64_t head_dim;
};

template <typename Element, typename Terms>
void pack_head(const Ops::Attention& args, const PackedKeyValues& packed, const Prompt& prompt,
               std::int64_t key_value_head, Rows tokens) {
  using Term = typename Terms::Term;
  const std::int64_t head_dim = args.head_dim;
  const PackedHead<Terms> head(packed, prompt, key_value_head, head_dim);
  const Rows rows{prompt.begin + tokens.first, prompt.begin + tokens.last};
  const Tensor keys = part_of<Element>(args.key_states, rows, key_value_head * head_dim, head_dim);
  const std::int64_t value_head_dim = value_head_dim_of(args);
  const Tensor values = part_of<Element>(args.value_states, rows, key_value_head * value_head_dim, value_head_dim);
  prefetch_rows<Element>(keys);
  prefetch_rows<Element>(values);
  for (std::int64_t row = 0; row < keys.rows; ++row) {
    Terms::pack_key(head.key_column(tokens.first + row), row_of<const Element>(keys, row), head_dim);
  }
  for (std::int64_t token = tokens.last; token % kPanel<Term> != 0; ++token) {  // the rest of the last panel
    Term* to = head.key_column(token);
    for (std::int64_t term = 0; term < Terms::count(head_dim); ++term) to[term * kPanel<Term>] = 0;
  }
  Terms::pack_values(head.value_row(0, tokens.first), head.value_panel_stride, values);
}

}  // namespace
}  // namespace layerprobe::device::cpu
