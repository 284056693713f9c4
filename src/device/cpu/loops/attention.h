#pragma once

// Attention of one head, blockwise with a running maximum and sum (Dao 2023, arXiv:2307.08691), for a few tiles of
// query rows at a time: the keys and values of a block come from the nearest caches for all tiles but the first.
//
// Blocks and tiles begin at the prompt's first token, so that a row's bits depend on its prompt alone.

#include "device/cpu/loops.h"
#include "device/cpu/loops/attention_terms.h"
#include "device/cpu/loops/elementwise.h"
#include "device/cpu/loops/tile_product.h"

namespace layerprobe::device::cpu {
namespace {

constexpr std::int64_t kQueryTokens = 8 * kTileRows;
constexpr std::int64_t kKeyBlock = 512;  // a multiple of a panel's keys; a tile's scores take 16 KiB in f32

/// What a call keeps of its query rows between blocks of keys, and room to work in. Terms are as long as A.
template <typename A, typename Term>
struct AttentionState {
  Term* query;        // [kQueryTokens, terms of head_dim]
  A* out;             // [kQueryTokens, padded value_head_dim], not yet divided by the sum
  A* max;             // [kQueryTokens], of the scaled scores so far
  A* sum;             // [kQueryTokens], of the exponentials so far
  A* scores;          // [kTileRows, kKeyBlock]; in their place then the weights of the values, as terms
  A* row_result;      // [kTileRows, kPanel]
  Term* seen_values;  // [terms of kKeyBlock, kPanel]

  AttentionState(void* scratch, const Ops::Attention& args) {
    query = static_cast<Term*>(scratch);
    out = static_cast<A*>(scratch) + kQueryTokens * args.head_dim;
    max = out + kQueryTokens * padded_head_dim<A>(value_head_dim_of(args));
    sum = max + kQueryTokens;
    scores = sum + kQueryTokens;
    row_result = scores + kTileRows * kKeyBlock;
    seen_values = reinterpret_cast<Term*>(row_result + kTileRows * kPanel<A>);
  }
  static std::int64_t bytes(const Ops::Attention& args) {
    const std::int64_t elements = kQueryTokens * (args.head_dim + padded_head_dim<A>(value_head_dim_of(args)) + 2) +
                                  kTileRows * (kKeyBlock + kPanel<A>)+kKeyBlock * kPanel<A>;
    return elements * static_cast<std::int64_t>(sizeof(A));
  }
};

std::int64_t attention_scratch_bytes(const Ops::Attention& args) {
  return args.out.dtype == Dtype::f64 ? AttentionState<double, double>::bytes(args)
                                      : AttentionState<float, float>::bytes(args);
}

/// `value` in the lanes whose key, counted from `key` for lane 0, is in `seen`; `other` in the rest.
template <typename A>
[[gnu::always_inline]] inline Vector<A> only_seen(Vector<A> value, Vector<A> other, std::int64_t key, Rows seen) {
  if (key >= seen.first && key + kLanes<A> <= seen.last) return value;
  using Index = Lanes<A>;
  const Index lanes = lane_numbers<A>();
  const auto first = static_cast<decltype(lanes[0] + 0)>(greater(seen.first - key, 0));
  const auto last = static_cast<decltype(lanes[0] + 0)>(lesser(greater(seen.last - key, 0), kLanes<A>));
  return ((lanes >= first) & (lanes < last)) ? value : other;
}

/// Scores of one row, keys [0, count), of which those in `seen` are seen: replaced by their exponentials as Terms, 0
/// for the others. The row's maximum, sum and output so far follow.
///
/// In bf16 and f16 the rounding is that of torch's flash kernel for the CPU, which transformers runs with one key and
/// value head or several, with the causal flag or a mask: blocks of 512 keys, exponentials by fast_exponential, summed
/// as they are and rounded to the tensors' dtype for the product with the values. The first `whole_vectors` keys fill
/// whole vectors of the prompt's block; for those after, torch takes accurate exponentials: for all of a prompt that is
/// shorter than a vector. Of its result on N(0, 1) inputs this leaves 0.0 to 0.1% of the elements different; accurate
/// exponentials everywhere 3 to 14%, exponentials that are not rounded 30 to 39% (torch 2.11.0, AVX-512, 33 to 700
/// tokens, head_dim 12 to 64).
///
/// That kernel takes values as wide as keys alone. For others torch expands all to f32 and rounds the result only:
/// UnroundedTerms. Of its result this leaves 0.0 to 0.2% of the elements different (40 tokens, head_dim 12 to 192).
template <typename Element, typename Terms, typename A>
inline void take_exponentials(A* scores, std::int64_t count, std::int64_t whole_vectors, Rows seen, A scaling, A& max,
                              A& sum, A* out, std::int64_t out_columns) {
  using V = Vector<A>;
  const V lowest = V{} - static_cast<A>(__builtin_inf());
  V maxima = lowest;
  for (std::int64_t key = 0; key < count; key += kLanes<A>) {
    maxima = larger(only_seen<A>(load(scores + key), lowest, key, seen), maxima);
  }
  const A block_max = max_of_lanes(maxima) * scaling;
  if (block_max > max) {
    const A factor = exponential(V{} + (max - block_max))[0];
    max = block_max;
    sum *= factor;
    for (std::int64_t d = 0; d < out_columns; d += kLanes<A>) store(out + d, load(out + d) * factor);
  }
  V sums = {};
  for (std::int64_t key = 0; key < count; key += kLanes<A>) {
    V value = load(scores + key) * scaling - max;
    if constexpr (sizeof(Element) == 2 && Terms::kRoundsWeights) {
      value = key < whole_vectors ? fast_exponential(value) : exponential(value);
    } else {
      value = exponential(value);
    }
    value = only_seen<A>(value, V{}, key, seen);
    sums += value;
    Terms::store_weights(reinterpret_cast<typename Terms::Term*>(scores), key, value);  // never ahead of the reading
  }
  sum += sum_of_lanes(sums);
}

/// One block of keys for one tile of query rows. `keys` counts from the prompt's begin; keys.first begins a panel, and
/// `block_end` is where the block ends for the prompt's last token.
/// `apart`: rows that see a value that is not finite must not share a product with rows that do not see it.
template <typename Element, typename Terms, typename A, typename Term>
void attend(const Ops::Attention& args, const PackedHead<Terms>& head, const AttentionState<A, Term>& state,
            std::int64_t tile, std::int64_t first_token, std::int64_t num_tokens, Rows keys, std::int64_t block_end,
            bool apart) {
  const std::int64_t out_columns = padded_head_dim<A>(value_head_dim_of(args));
  const std::int64_t count = keys.last - keys.first;
  A* out = state.out + tile * out_columns;
  const std::int64_t terms = Terms::count(args.head_dim);
  for (std::int64_t key = 0; key < count; key += kPanel<A>) {
    Terms::multiply(state.query + tile * terms, terms, head.key_column(keys.first + key), terms, state.scores + key,
                    kKeyBlock, false);
  }
  const std::int64_t window = args.sliding_window > 0 ? args.sliding_window : first_token + kTileRows;
  const auto seen_by = [&](std::int64_t row) {
    const std::int64_t token = first_token + row;
    const std::int64_t first = greater(keys.first, token - window + 1);
    return Rows{first - keys.first, row < num_tokens ? lesser(keys.last, token + 1) - keys.first : 0};
  };
  const std::int64_t padded_count = (count + kPanel<A> - 1) / kPanel<A> * kPanel<A>;
  const std::int64_t whole_vectors = (block_end - keys.first) / kLanes<A> * kLanes<A>;
  for (std::int64_t row = 0; row < kTileRows; ++row) {
    take_exponentials<Element, Terms>(state.scores + row * kKeyBlock, padded_count, whole_vectors, seen_by(row),
                                      static_cast<A>(args.scaling), state.max[tile + row], state.sum[tile + row],
                                      out + row * out_columns, out_columns);
  }
  const Term* weights = reinterpret_cast<const Term*>(state.scores);
  for (std::int64_t d = 0; d < out_columns; d += kPanel<A>) {
    const Term* values = head.value_row(d, keys.first);
    if (!apart) {
      Terms::multiply(weights, kKeyBlock, values, Terms::count(count), out + d, out_columns, true);
      continue;
    }
    for (std::int64_t row = 0; row < kTileRows; ++row) {
      Terms::copy_seen_values(state.seen_values, values, count, seen_by(row));
      Terms::multiply(weights, kKeyBlock, state.seen_values, Terms::count(count), state.row_result, kPanel<A>, false);
      for (std::int64_t column = 0; column < kPanel<A>; ++column) {
        out[row * out_columns + d + column] += state.row_result[row * kPanel<A> + column];
      }
    }
  }
}

/// True when all of the result is finite.
template <typename Element, typename Terms>
bool attend_all(const Ops::Attention& args, const PackedKeyValues& packed, const Prompt& prompt, std::int64_t head,
                Rows tokens, void* scratch, bool apart) {
  using A = Scalar<Element>;
  using V = Vector<Element>;
  const std::int64_t head_dim = args.head_dim, value_head_dim = value_head_dim_of(args);
  const std::int64_t out_columns = padded_head_dim<A>(value_head_dim);
  const std::int64_t terms = Terms::count(head_dim);
  const AttentionState<A, typename Terms::Term> state(scratch, args);
  const Tensor queries = part_of<Element>(args.query_states, {prompt.begin + tokens.first, prompt.begin + tokens.last},
                                          head * head_dim, head_dim);
  prefetch_rows<Element>(queries);
  for (std::int64_t row = 0; row < kQueryTokens; ++row) {
    if (row < queries.rows) {
      Terms::pack_query(state.query + row * terms, row_of<const Element>(queries, row), head_dim);
    } else {
      for (std::int64_t term = 0; term < terms; ++term) state.query[row * terms + term] = 0;
    }
    for (std::int64_t d = 0; d < out_columns; ++d) state.out[row * out_columns + d] = 0;
    state.max[row] = -static_cast<A>(__builtin_inf());
    state.sum[row] = 0;
  }

  const std::int64_t key_value_head = head / (args.query_states.columns / args.key_states.columns);
  const PackedHead<Terms> packed_head(packed, prompt, key_value_head, head_dim);
  const auto first_seen = [&](std::int64_t token) {
    return args.sliding_window > 0 ? greater(0, token - args.sliding_window + 1) : 0;
  };
  for (std::int64_t block = first_seen(tokens.first) / kKeyBlock * kKeyBlock; block < tokens.last; block += kKeyBlock) {
    const std::int64_t block_end = lesser(block + kKeyBlock, prompt.end - prompt.begin);
    for (std::int64_t token = tokens.first; token < tokens.last; token += kTileRows) {
      const std::int64_t num_tokens = lesser(kTileRows, tokens.last - token);
      const std::int64_t first = greater(block, first_seen(token) / kPanel<A> * kPanel<A>);
      const std::int64_t last = lesser(block + kKeyBlock, token + num_tokens);
      if (first >= last) continue;
      attend<Element>(args, packed_head, state, token - tokens.first, token, num_tokens, Rows{first, last}, block_end,
                      apart);
    }
  }

  V not_finite = {};
  for (std::int64_t row = 0; row < queries.rows; ++row) {
    Element* to = row_of<Element>(args.out, prompt.begin + tokens.first + row) + head * value_head_dim;
    const A factor = 1 / state.sum[row];
    for_each_vector<Element>(value_head_dim, [&](std::int64_t d, auto access) {
      const V value = access.load(state.out + row * out_columns + d) * factor;
      not_finite += value - value;
      access.store(to + d, value);
    });
  }
  return sum_of_lanes(not_finite) == 0;
}

template <typename Element, typename Bf16Terms>
struct TermsOf {
  using Type = SingleTerms<Element>;
};
template <typename Bf16Terms>
struct TermsOf<Bf16, Bf16Terms> {
  using Type = Bf16Terms;
};

/// Calls `run.operator()<Element, Terms>()` with those of the call.
template <typename Bf16Terms, typename Run>
void with_terms(const Ops::Attention& args, Run&& run) {
  dispatch(args.out.dtype, [&]<typename Element>() {
    if constexpr (sizeof(Element) == 2) {
      if (value_head_dim_of(args) != args.head_dim) return run.template operator()<Element, UnroundedTerms<Element>>();
    }
    run.template operator()<Element, typename TermsOf<Element, Bf16Terms>::Type>();
  });
}

template <typename Bf16Terms>
void pack_key_values(const Ops::Attention& args, const PackedKeyValues& packed, const Prompt& prompt,
                     std::int64_t key_value_head, Rows tokens) {
  with_terms<Bf16Terms>(args, [&]<typename Element, typename Terms>() {
    pack_head<Element, Terms>(args, packed, prompt, key_value_head, tokens);
  });
}

template <typename Bf16Terms>
void attention(const Ops::Attention& args, const PackedKeyValues& packed, const Prompt& prompt, std::int64_t head,
               Rows tokens, void* scratch) {
  with_terms<Bf16Terms>(args, [&]<typename Element, typename Terms>() {
    if (attend_all<Element, Terms>(args, packed, prompt, head, tokens, scratch, false)) return;
    // A value that is not finite times a weight of 0 is NaN: a token would see what comes after it. Again, row by row.
    attend_all<Element, Terms>(args, packed, prompt, head, tokens, scratch, true);
  });
}

}  // namespace
}  // namespace layerprobe::device::cpu
