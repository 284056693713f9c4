#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "base/error.h"

namespace layerprobe::check {

enum class Status {
  pass,
  warn,  // a run works, and is slower or closer to its end than it should be
  fail,  // a run would fail, or be wrong
  skip,  // not tried
};
/// "pass", "warn", "fail", "skip"
std::string_view name_of(Status status);

/// One thing that was looked at.
struct Item {
  std::string name;  // "cuda:0 memory": what it is about, and what of it
  Status status = Status::pass;
  std::string measured = {};  // what was found; of skip: why it was not tried
  std::string expected = {};  // what it was held against; empty: nothing
  std::string advice = {};    // one thing to do; of warn and fail
};
using Items = std::vector<Item>;

/// A failure of what was tried, as an item.
Item failed(std::string name, const Error& error, std::string expected = {});

/// Appends what `judge()` returns (an Item or Items), or the Error that it throws as a failed item.
template <typename Judge>
void add(Items& items, const std::string& name, Judge&& judge) {
  try {
    if constexpr (requires { Item(judge()); }) {
      items.push_back(judge());
    } else {
      Items more = judge();
      items.insert(items.end(), more.begin(), more.end());
    }
  } catch (const Error& error) {
    if (error.kind() == ErrorKind::interrupted || error.kind() == ErrorKind::bug) throw;
    items.push_back(failed(name, error));
  }
}

}  // namespace layerprobe::check
