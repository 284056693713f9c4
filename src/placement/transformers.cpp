#include "placement/transformers.h"

#include <algorithm>
#include <deque>
#include <limits>
#include <map>
#include <set>
#include <span>
#include <string_view>

namespace layerprobe::placement {
namespace {

/// What slack is made of.
struct Leaves {
  std::int64_t count = 0;  // modules that have a tensor of their own
  std::int64_t bytes = 0;
  std::int64_t largest = 0;
  std::int64_t largest_no_split = 0;

  void add(const TreeModule& module, bool is_root = true) {
    if (module.is_no_split) largest_no_split = std::max(largest_no_split, static_cast<std::int64_t>(module.bytes));
    std::int64_t own_bytes = static_cast<std::int64_t>(module.bytes);
    for (const TreeModule& child : module.children) {
      own_bytes -= static_cast<std::int64_t>(child.bytes);
      add(child, false);
    }
    const auto counts = [](const TreeModule::Tensor& tensor) { return tensor.tied_to.empty(); };
    if (is_root || (std::ranges::none_of(module.parameters, counts) && module.buffers.empty())) return;
    ++count;
    bytes += own_bytes;
    largest = std::max(largest, own_bytes);
  }
};

/// A module, or a tensor by itself.
struct Item {
  const TreeModule* module = nullptr;
  const TreeModule::Tensor* tensor = nullptr;

  std::string_view name() const { return module != nullptr ? module->name : tensor->name; }
  std::int64_t bytes() const { return static_cast<std::int64_t>(module != nullptr ? module->bytes : tensor->bytes); }
  bool can_be_opened() const { return module != nullptr && !module->children.empty() && !module->is_no_split; }
};

/// The largest items that go to one device as a whole, by name.
struct Largest {
  std::int64_t bytes = 0;
  std::set<std::string_view> names;

  void look_at(const Item& item) {
    if (item.can_be_opened()) {
      for (const TreeModule& child : item.module->children) look_at({.module = &child});
      return;
    }
    if (item.bytes() > bytes) names.clear();
    if (item.bytes() < bytes) return;
    bytes = item.bytes();
    names.insert(item.name());
  }

  void forget(std::string_view name) {
    for (auto at = names.lower_bound(name); at != names.end() && at->starts_with(name);) {
      at = is_within(*at, name) ? names.erase(at) : std::next(at);
    }
  }
};

class Filler {
 public:
  Filler(const TreeModule& root, const WeightBudgets& budgets) : num_devices_(budgets.devices.size()) {
    limits_ = budgets.devices;
    limits_.push_back(budgets.host.value_or(0));
    limits_.push_back(std::numeric_limits<std::int64_t>::max());
    used_.resize(limits_.size());
    has_host_ = budgets.host.has_value();
    if (num_devices_ == 0 && !has_host_) place_ = 1;
    find_ties(root);
    open(root);
    recount();
  }

  Filled run() {
    while (!queue_.empty()) place_next();
    return std::move(out_);
  }

 private:
  void find_ties(const TreeModule& module) {
    for (const TreeModule::Tensor& tensor : module.parameters) {
      if (tensor.tied_to.empty()) continue;
      std::vector<std::string_view>& group = ties_[tensor.tied_to];
      if (group.empty()) group.push_back(tensor.tied_to);
      group.push_back(tensor.name);
    }
    for (const TreeModule& child : module.children) find_ties(child);
  }

  /// What is in the module, in front of the queue.
  void open(const TreeModule& module) {
    std::vector<Item> items;
    for (const TreeModule::Tensor& tensor : module.parameters) items.push_back({.tensor = &tensor});
    for (const TreeModule& child : module.children) items.push_back({.module = &child});
    for (const TreeModule::Tensor& tensor : module.buffers) items.push_back({.tensor = &tensor});
    queue_.insert(queue_.begin(), items.begin(), items.end());
  }

  void recount() {
    largest_ = {};
    for (const Item& item : queue_) {
      if (item.module != nullptr) largest_.look_at(item);
    }
  }

  /// Where in the queue the names stand that are tied to one in `item` and are not in it themselves.
  std::vector<std::size_t> tied_entries(const Item& item) const {
    std::vector<std::size_t> entries;
    for (const auto& [source, group] : ties_) {
      const auto is_inside = [&](std::string_view name) { return is_within(name, item.name()); };
      if (std::ranges::none_of(group, is_inside)) continue;
      for (const std::string_view name : group) {
        if (is_inside(name)) continue;
        const auto entry = std::ranges::find_if(queue_, [&](const Item& each) { return is_within(name, each.name()); });
        const auto at = static_cast<std::size_t>(entry - queue_.begin());
        if (entry != queue_.end() && std::ranges::count(entries, at) == 0) entries.push_back(at);
      }
    }
    return entries;
  }

  void put(const Item& item) { out_.emplace_back(item.name(), place_); }

  void place_next() {
    const Item item = queue_.front();
    queue_.pop_front();
    largest_.forget(item.name());
    if (largest_.names.empty()) recount();
    const std::vector<std::size_t> tied = ties_.empty() ? std::vector<std::size_t>() : tied_entries(item);
    std::int64_t need = item.bytes();
    for (const std::size_t entry : tied) need += queue_[entry].bytes();

    const bool keeps_room = place_ == num_devices_ || (place_ == 0 && num_devices_ > 0);
    const std::int64_t limit = limits_[place_] - (keeps_room ? largest_.bytes : 0);
    if (used_[place_] + need <= limit) {
      used_[place_] += need;
      put(item);
      place_tied(tied);
    } else if (!tied.empty() && used_[place_] + item.bytes() <= limit && open_tied(item, tied)) {
      recount();
    } else if (item.can_be_opened()) {
      open(*item.module);
      recount();
    } else {
      ++place_;
      if (place_ == num_devices_ && !has_host_) ++place_;
      queue_.push_front(item);
    }
  }

  void place_tied(std::vector<std::size_t> entries) {
    for (const std::size_t entry : entries) put(queue_[entry]);
    std::ranges::sort(entries, std::greater());
    for (const std::size_t entry : entries) queue_.erase(queue_.begin() + static_cast<std::ptrdiff_t>(entry));
  }

  /// Opens the first tied entry that can be: a part of it may fit beside `item`. False when there is none.
  bool open_tied(const Item& item, const std::vector<std::size_t>& entries) {
    const auto found = std::ranges::find_if(entries, [&](std::size_t at) { return queue_[at].can_be_opened(); });
    if (found == entries.end()) return false;
    const auto at = queue_.begin() + static_cast<std::ptrdiff_t>(*found);
    const TreeModule& module = *at->module;
    std::vector<Item> items;
    for (const TreeModule::Tensor& tensor : module.parameters) items.push_back({.tensor = &tensor});
    for (const TreeModule& child : module.children) items.push_back({.module = &child});
    queue_.insert(queue_.erase(at), items.begin(), items.end());
    queue_.push_front(item);
    return true;
  }

  const std::size_t num_devices_;
  std::vector<std::int64_t> limits_, used_;  // of each place
  bool has_host_ = false;
  std::map<std::string_view, std::vector<std::string_view>> ties_;  // names by the source they share
  std::deque<Item> queue_;
  Largest largest_;
  std::size_t place_ = 0;
  Filled out_;
};

}  // namespace

WeightBudgets balanced_budgets(const TreeModule& root, WeightBudgets budgets, bool low_0, Slack slack) {
  std::vector<std::size_t> usable;
  for (std::size_t i = 0; i < budgets.devices.size(); ++i) {
    if (budgets.devices[i] > 0) usable.push_back(i);
  }
  if (usable.empty()) return budgets;
  if (usable.size() == 1) low_0 = false;
  Leaves leaves;
  leaves.add(root);
  const std::int64_t leaf =
      slack == Slack::largest_leaf ? leaves.largest : leaves.bytes / std::max<std::int64_t>(leaves.count, 1);
  const std::int64_t room = std::max(leaves.largest_no_split, leaf);
  const auto total = static_cast<std::int64_t>(root.bytes);
  const auto parts = static_cast<std::int64_t>(low_0 ? usable.size() - 1 : usable.size());
  const std::int64_t share = total / parts + room + room / 4;
  for (const std::size_t device : std::span(usable).first(usable.size() - 1)) {
    if (low_0 && device == 0) continue;
    budgets.devices[device] = std::min(share, budgets.devices[device]);
  }
  if (low_0) {
    std::int64_t others = 0;  // as upstream counts them: as many as are usable, from the second device on
    for (std::size_t i = 1; i < usable.size(); ++i) others += std::min(budgets.devices[i], total);
    budgets.devices[0] = std::min(budgets.devices[0], std::max<std::int64_t>(0, total - others));
  }
  return budgets;
}

Filled fill(const TreeModule& root, const WeightBudgets& budgets) { return Filler(root, budgets).run(); }

}  // namespace layerprobe::placement
