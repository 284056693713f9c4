#pragma once

// Queries and keys in the form that their products are taken in, and values: packed for loops/tile_product.h.

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

/// One term for each element of a query or key, in its arithmetic type. An instruction set that multiplies bf16 in
/// pairs has its own such struct for them.
template <typename Element>
struct SingleTerms {
  using Term = Scalar<Element>;

  static std::int64_t count(std::int64_t head_dim) { return head_dim; }

  static void copy_query(Term* to, const Element* query, std::int64_t head_dim) {
    for_each_vector<Element>(head_dim,
                             [&](std::int64_t d, auto access) { access.store(to + d, access.load(query + d)); });
  }
  /// Into one column of a panel.
  static void copy_key(Term* to, const Element* key, std::int64_t head_dim) {
    for_each_vector<Element>(head_dim, [&](std::int64_t d, auto access) {
      const Vector<Element> part = access.load(key + d);
      for (std::int64_t lane = 0; lane < lesser(kLanes<Element>, head_dim - d); ++lane) {
        to[(d + lane) * kPanel<Term>] = part[lane];
      }
    });
  }
  /// Scores of a tile of queries and a panel of keys.
  static void multiply(const Term* queries, const Term* keys, std::int64_t count, Term* scores,
                       std::int64_t scores_stride) {
    multiply_panel(queries, count, keys, count, scores, scores_stride, false);
  }
};

/// Where the panel of the prompt's `token`, and the token's column in it, begin.
template <typename Terms, typename A>
inline typename Terms::Term* key_column(A* head_keys, std::int64_t token, std::int64_t head_dim) {
  auto* terms = reinterpret_cast<typename Terms::Term*>(head_keys);
  return terms + token / kPanel<A> * kPanel<A> * Terms::count(head_dim) + token % kPanel<A>;
}

template <typename Element, typename Terms>
void pack_head(const Ops::Attention& args, const PackedKeyValues& packed, const Prompt& prompt,
               std::int64_t key_value_head, Rows tokens) {
  using A = Scalar<Element>;
  const std::int64_t head_dim = args.head_dim;
  A* keys = static_cast<A*>(packed.keys) + key_value_head * packed.key_head_stride + prompt.key_offset;
  A* values = static_cast<A*>(packed.values) + key_value_head * packed.value_head_stride + prompt.value_offset;
  for (std::int64_t token = tokens.first; token < tokens.last; ++token) {
    const Element* key = row_of<const Element>(args.key_states, prompt.begin + token) + key_value_head * head_dim;
    Terms::copy_key(key_column<Terms>(keys, token, head_dim), key, head_dim);
    const Element* value = row_of<const Element>(args.value_states, prompt.begin + token) + key_value_head * head_dim;
    for (std::int64_t d = 0; d < padded_head_dim<A>(head_dim); d += kLanes<Element>) {
      const std::int64_t count = head_dim - d;
      const Vector<Element> part = count >= kLanes<Element> ? load(value + d)
                                   : count > 0              ? load_first(value + d, count)
                                                            : Vector<Element>{};
      store(values + d / kPanel<A> * packed.value_panel_stride + token * kPanel<A> + d % kPanel<A>, part);
    }
  }
  for (std::int64_t token = tokens.last; token % kPanel<A> != 0; ++token) {  // the rest of the last panel
    typename Terms::Term* to = key_column<Terms>(keys, token, head_dim);
    for (std::int64_t term = 0; term < Terms::count(head_dim); ++term) to[term * kPanel<A>] = 0;
  }
}

}  // namespace
}  // namespace layerprobe::device::cpu
