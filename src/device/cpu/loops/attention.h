#pragma once

// Attention of one head, blockwise with a running maximum and sum (Dao 2023, arXiv:2307.08691), for a few tiles of
// query rows at a time: the keys and values of a block come from the nearest caches for all tiles but the first.
//
// Blocks and tiles begin at the prompt's first token, so that a row's bits depend on its prompt alone.

#include "device/cpu/loops.h"
#include "device/cpu/loops/elementwise.h"
#include "device/cpu/loops/tile_product.h"

namespace layerprobe::device::cpu {
namespace {

constexpr std::int64_t kQueryTokens = 8 * kTileRows;
constexpr std::int64_t kKeyBlock = 256;  // a multiple of a panel's keys; a tile's scores take 8 KiB in f32

inline std::int64_t lesser(std::int64_t a, std::int64_t b) { return a < b ? a : b; }
inline std::int64_t greater(std::int64_t a, std::int64_t b) { return a > b ? a : b; }

template <typename A>
inline std::int64_t padded_head_dim(std::int64_t head_dim) {
  return (head_dim + kPanel<A> - 1) / kPanel<A> * kPanel<A>;
}

template <typename Element>
void pack_head(const Ops::Attention& args, const PackedKeyValues& packed, const Prompt& prompt,
               std::int64_t key_value_head, Rows tokens) {
  using A = Scalar<Element>;
  const std::int64_t head_dim = args.head_dim;
  A* keys = static_cast<A*>(packed.keys) + key_value_head * packed.key_head_stride + prompt.key_offset;
  A* values = static_cast<A*>(packed.values) + key_value_head * packed.value_head_stride + prompt.value_offset;
  for (std::int64_t token = tokens.first; token < tokens.last; ++token) {
    const Element* key = row_of<const Element>(args.key_states, prompt.begin + token) + key_value_head * head_dim;
    A* to = keys + token / kPanel<A> * kPanel<A> * head_dim + token % kPanel<A>;
    for_each_vector<Element>(head_dim, [&](std::int64_t d, auto access) {
      const Vector<Element> part = access.load(key + d);
      for (std::int64_t lane = 0; lane < lesser(kLanes<Element>, head_dim - d); ++lane) {
        to[(d + lane) * kPanel<A>] = part[lane];
      }
    });
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
    A* to = keys + token / kPanel<A> * kPanel<A> * head_dim + token % kPanel<A>;
    for (std::int64_t d = 0; d < head_dim; ++d) to[d * kPanel<A>] = 0;
  }
}

void pack_key_values(const Ops::Attention& args, const PackedKeyValues& packed, const Prompt& prompt,
                     std::int64_t key_value_head, Rows tokens) {
  dispatch(args.out.dtype,
           [&]<typename Element>() { pack_head<Element>(args, packed, prompt, key_value_head, tokens); });
}

/// What a call keeps of its query rows between blocks of keys.
template <typename A>
struct AttentionState {
  A* query;       // [kQueryTokens, head_dim]
  A* out;         // [kQueryTokens, padded head_dim], not yet divided by the sum
  A* max;         // [kQueryTokens], of the scaled scores so far
  A* sum;         // [kQueryTokens], of the exponentials so far
  A* scores;      // [kTileRows, kKeyBlock], then their exponentials
  A* single_row;  // [kTileRows, kPanel]
};

template <typename A>
std::int64_t attention_state_elements(std::int64_t head_dim) {
  return kQueryTokens * (head_dim + padded_head_dim<A>(head_dim) + 2) + kTileRows * (kKeyBlock + kPanel<A>);
}

std::int64_t attention_scratch_bytes(const Ops::Attention& args) {
  return args.out.dtype == Dtype::f64
             ? attention_state_elements<double>(args.head_dim) * static_cast<std::int64_t>(sizeof(double))
             : attention_state_elements<float>(args.head_dim) * static_cast<std::int64_t>(sizeof(float));
}

/// Scores of one row, keys [0, count), of which [first, last) are seen: replaced by their exponentials, 0 for the
/// others. The row's sum, maximum and output so far follow.
template <typename A, typename V = Vector<A>>
inline void take_exponentials(A* scores, std::int64_t count, Rows seen, A scaling, A& max, A& sum, A* out,
                              std::int64_t out_columns) {
  const auto each = [&](auto work) __attribute__((always_inline)) {
    for (std::int64_t key = 0; key < count; key += kLanes<A>) {
      Vector<A> score = load(scores + key);
      for (std::int64_t lane = 0; lane < kLanes<A>; ++lane) {
        if (key + lane < seen.first || key + lane >= seen.last) score[lane] = -__builtin_inf();
      }
      work(key, score);
    }
  };
  if (seen.first >= seen.last) {
    for (std::int64_t key = 0; key < count; ++key) scores[key] = 0;
    return;
  }
  V maxima = V{} - static_cast<A>(__builtin_inf());
  each([&](std::int64_t, V score) __attribute__((always_inline)) { maxima = larger(score, maxima); });
  const A block_max = max_of_lanes(maxima) * scaling;
  const A new_max = block_max > max ? block_max : max;
  if (new_max != max) {
    const A factor = exponential(V{} + (max - new_max))[0];
    sum *= factor;
    for (std::int64_t d = 0; d < out_columns; d += kLanes<A>) store(out + d, load(out + d) * factor);
    max = new_max;
  }
  V sums = {};
  each([&](std::int64_t key, V score) __attribute__((always_inline)) {
    V value = exponential(score * scaling - max);
    for (std::int64_t lane = 0; lane < kLanes<A>; ++lane) {
      if (key + lane < seen.first || key + lane >= seen.last) value[lane] = 0;
    }
    sums += value;
    store(scores + key, value);
  });
  sum += sum_of_lanes(sums);
}

/// One block of keys for one tile of query rows. `keys` counts from the prompt's begin; keys.first begins a panel.
/// `apart`: rows that see a value that is not finite must not share a product with rows that do not see it.
template <typename A>
void attend(const Ops::Attention& args, const PackedKeyValues& packed, const A* head_keys, const A* head_values,
            const AttentionState<A>& state, std::int64_t tile, std::int64_t first_token, std::int64_t num_tokens,
            Rows keys, bool apart) {
  const std::int64_t head_dim = args.head_dim;
  const std::int64_t out_columns = padded_head_dim<A>(head_dim);
  const std::int64_t count = keys.last - keys.first;
  A* out = state.out + tile * out_columns;
  for (std::int64_t key = 0; key < count; key += kPanel<A>) {
    multiply_panel(state.query + tile * head_dim, head_dim, head_keys + (keys.first + key) * head_dim, head_dim,
                   state.scores + key, kKeyBlock, false);
  }
  const std::int64_t window = args.sliding_window > 0 ? args.sliding_window : first_token + kTileRows;
  const auto seen_by = [&](std::int64_t row) {
    const std::int64_t token = first_token + row;
    const std::int64_t first = greater(keys.first, token - window + 1);
    return Rows{first - keys.first, row < num_tokens ? lesser(keys.last, token + 1) - keys.first : 0};
  };
  const std::int64_t padded_count = (count + kPanel<A> - 1) / kPanel<A> * kPanel<A>;
  for (std::int64_t row = 0; row < kTileRows; ++row) {
    take_exponentials(state.scores + row * kKeyBlock, padded_count, seen_by(row), static_cast<A>(args.scaling),
                      state.max[tile + row], state.sum[tile + row], out + row * out_columns, out_columns);
  }
  for (std::int64_t d = 0; d < out_columns; d += kPanel<A>) {
    const A* values = head_values + d / kPanel<A> * packed.value_panel_stride + keys.first * kPanel<A>;
    if (!apart) {
      multiply_panel(state.scores, kKeyBlock, values, count, out + d, out_columns, true);
      continue;
    }
    for (std::int64_t row = 0; row < kTileRows; ++row) {
      const Rows seen = seen_by(row);
      if (seen.first >= seen.last) continue;
      A* sums = state.single_row;  // strides of 0: a tile whose rows are all this one
      __builtin_memcpy(sums, out + row * out_columns + d, kPanel<A> * sizeof(A));
      multiply_panel(state.scores + row * kKeyBlock + seen.first, 0, values + seen.first * kPanel<A>,
                     seen.last - seen.first, sums, 0, true);
      __builtin_memcpy(out + row * out_columns + d, sums, kPanel<A> * sizeof(A));
    }
  }
}

/// True when all of the result is finite.
template <typename Element>
bool attend_all(const Ops::Attention& args, const PackedKeyValues& packed, const Prompt& prompt, std::int64_t head,
                Rows tokens, void* scratch, bool apart) {
  using A = Scalar<Element>;
  using V = Vector<Element>;
  const std::int64_t head_dim = args.head_dim;
  const std::int64_t out_columns = padded_head_dim<A>(head_dim);
  AttentionState<A> state;
  state.query = static_cast<A*>(scratch);
  state.out = state.query + kQueryTokens * head_dim;
  state.max = state.out + kQueryTokens * out_columns;
  state.sum = state.max + kQueryTokens;
  state.scores = state.sum + kQueryTokens;
  state.single_row = state.scores + kTileRows * kKeyBlock;
  for (std::int64_t row = 0; row < kQueryTokens; ++row) {
    A* query = state.query + row * head_dim;
    if (row < tokens.last - tokens.first) {
      const Element* from =
          row_of<const Element>(args.query_states, prompt.begin + tokens.first + row) + head * head_dim;
      for_each_vector<Element>(head_dim,
                               [&](std::int64_t d, auto access) { access.store(query + d, access.load(from + d)); });
    } else {
      for (std::int64_t d = 0; d < head_dim; ++d) query[d] = 0;
    }
    for (std::int64_t d = 0; d < out_columns; ++d) state.out[row * out_columns + d] = 0;
    state.max[row] = -static_cast<A>(__builtin_inf());
    state.sum[row] = 0;
  }

  const std::int64_t key_value_head = head / (args.query_states.columns / args.key_states.columns);
  const A* keys = static_cast<const A*>(packed.keys) + key_value_head * packed.key_head_stride + prompt.key_offset;
  const A* values =
      static_cast<const A*>(packed.values) + key_value_head * packed.value_head_stride + prompt.value_offset;
  const auto first_seen = [&](std::int64_t token) {
    return args.sliding_window > 0 ? greater(0, token - args.sliding_window + 1) : 0;
  };
  for (std::int64_t block = first_seen(tokens.first) / kKeyBlock * kKeyBlock; block < tokens.last; block += kKeyBlock) {
    for (std::int64_t token = tokens.first; token < tokens.last; token += kTileRows) {
      const std::int64_t num_tokens = lesser(kTileRows, tokens.last - token);
      const std::int64_t first = greater(block, first_seen(token) / kPanel<A> * kPanel<A>);
      const std::int64_t last = lesser(block + kKeyBlock, token + num_tokens);
      if (first >= last) continue;
      attend(args, packed, keys, values, state, token - tokens.first, token, num_tokens, Rows{first, last}, apart);
    }
  }

  V not_finite = {};
  for (std::int64_t row = 0; row < tokens.last - tokens.first; ++row) {
    Element* to = row_of<Element>(args.out, prompt.begin + tokens.first + row) + head * head_dim;
    for_each_vector<Element>(head_dim, [&](std::int64_t d, auto access) {
      const V value = access.load(state.out + row * out_columns + d) / state.sum[row];
      not_finite += value - value;
      access.store(to + d, value);
    });
  }
  return sum_of_lanes(not_finite) == 0;
}

void attention(const Ops::Attention& args, const PackedKeyValues& packed, const Prompt& prompt, std::int64_t head,
               Rows tokens, void* scratch) {
  dispatch(args.out.dtype, [&]<typename Element>() {
    if (attend_all<Element>(args, packed, prompt, head, tokens, scratch, false)) return;
    // A value that is not finite times a weight of 0 is NaN: a token would see what comes after it. Again, row by row.
    attend_all<Element>(args, packed, prompt, head, tokens, scratch, true);
  });
}

}  // namespace
}  // namespace layerprobe::device::cpu
