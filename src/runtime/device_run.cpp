#include "runtime/device_run.h"

#include <algorithm>
#include <utility>

#include "base/error.h"
#include "base/text.h"

namespace layerprobe::runtime {
namespace {

double seconds_since(std::chrono::steady_clock::time_point start) {
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

}  // namespace

void Telling::expect(std::uint64_t load_bytes, std::uint64_t run_tokens) {
  const std::lock_guard lock(mutex_);
  load_total_ = load_bytes;
  run_total_ = run_tokens;
}

void Telling::begin_running() {
  const std::lock_guard lock(mutex_);
  begin_ = std::chrono::steady_clock::now();
}

void Telling::tell(Watch::Step::Kind kind) {
  const bool loads = kind == Watch::Step::Kind::loading;
  watch_.step({.kind = kind,
               .done = loads ? std::min(loaded_, load_total_) : ran_,  // a replica may have had to read by itself
               .total = loads ? load_total_ : run_total_,
               .seconds = seconds_since(begin_),
               .devices = devices_});
}

void Telling::loaded(std::uint64_t bytes) {
  const std::lock_guard lock(mutex_);
  watch_.stop_if_asked();
  loaded_ += bytes;
  tell(Watch::Step::Kind::loading);
}

void Telling::ran(std::int64_t tokens) {
  const std::lock_guard lock(mutex_);
  watch_.stop_if_asked();
  ran_ += static_cast<std::uint64_t>(tokens);
  tell(Watch::Step::Kind::running);
}

RunState Telling::state(std::size_t num_layers) {
  RunState state;
  const auto layers = static_cast<double>(std::max<std::size_t>(num_layers, 1));
  {
    const std::lock_guard lock(mutex_);
    state.loaded_bytes = loaded_;
    state.load_bytes = load_total_;
    state.tokens = static_cast<double>(ran_) / layers;
    state.num_tokens = static_cast<double>(run_total_) / layers;
  }
  state.devices = devices_();
  return state;
}

void Telling::stop_if_asked() {
  const std::lock_guard lock(mutex_);
  watch_.stop_if_asked();
}

DeviceRun::DeviceRun(Shared& shared, device::Ops& ops, const store::Layout& layout, capture::Gathering& gathering,
                     Options options)
    : shared_(shared),
      ops_(ops),
      options_(std::move(options)),
      alone_(shared.stages.layers_apart || shared.stages.largest_wave() == 1),
      recorder_(ops, layout, shared.prepared.plan.keeps_mean, shared.writer, gathering, options_.ring_bytes),
      forward_(shared.prepared.config, shared.prepared.plan, shared.prepared.prompts, ops, recorder_, shared.rank),
      loader_(shared.prepared.config, shared.prepared.checkpoint, shared.prepared.plan.dtype, ops,
              [this](std::uint64_t bytes) {
                const bool is_awaited = is_loading_ || (shared_.stages.layers_apart && !is_bringing_experts_);
                if (is_awaited) return shared_.telling.loaded(bytes);
                shared_.telling.stop_if_asked();
              }),
      busy_(ops.stopwatch()),
      weights_(shared.stages.modules.size()) {
  for (const StageEnds& ends : options_.stages) {
    const Stage& stage = shared_.stages.stages[ends.stage];
    for (std::size_t module = stage.begin; module < stage.end; ++module) {
      if (is_streamed(module)) streamed_.push_back(module);
    }
  }
}

bool DeviceRun::is_streamed(std::size_t module) const {
  return shared_.stages.layers_apart || shared_.stages.modules[module].home != placement::Home::resident;
}

std::uint64_t DeviceRun::load_bytes() const {
  if (options_.donor != nullptr) return 0;
  std::uint64_t bytes = 0;
  for (const StageEnds& ends : options_.stages) {
    const Stage& stage = shared_.stages.stages[ends.stage];
    for (std::size_t i = stage.begin; i < stage.end; ++i) {
      const RunModule& module = shared_.stages.modules[i];
      if (is_streamed(i) && !shared_.stages.layers_apart) continue;
      const bool with_experts = !options_.brings_chosen || !is_streamed(i);
      bytes += module.kind == RunModule::Kind::layer       ? loader_.layer_bytes(module.layer, with_experts)
               : module.kind == RunModule::Kind::embedding ? loader_.embedding_bytes()
               : module.kind == RunModule::Kind::norm      ? loader_.norm_bytes()
                                                           : loader_.lm_head_bytes();
    }
  }
  return bytes;
}

template <typename Wait>
void DeviceRun::wait_for(const char* what, std::atomic<double>& seconds, Wait&& wait) {
  const Clock::time_point start = Clock::now();
  waits_for_ = what;
  wait();
  waits_for_ = "";
  seconds += seconds_since(start);
}

void DeviceRun::run() noexcept {
  try {
    work();
  } catch (const Hub::Stopped&) {
  } catch (const Error& error) {
    const bool is_known = shared_.stages.stages.size() == 1 || error.kind() == ErrorKind::interrupted;
    shared_.hub.stop(std::make_exception_ptr(is_known ? error : error.within(ops_.name())));
  } catch (...) {
    shared_.hub.stop(std::current_exception());
  }
}

void DeviceRun::work() {
  load_resident();
  wait_until_all_loaded();
  while (const auto work = next()) run_wave(*work->first, work->second);
  current_.reset();
  coming_.reset();
  ops_.synchronize();
  recorder_.finish();
}

void DeviceRun::load_resident() {
  const Clock::time_point start = Clock::now();
  std::size_t resident_bytes = 0, largest_streamed = 0;
  std::vector<std::size_t> resident;
  for (const StageEnds& ends : options_.stages) {
    const Stage& stage = shared_.stages.stages[ends.stage];
    for (std::size_t module = stage.begin; module < stage.end; ++module) {
      const std::size_t bytes = forward_.weights_bytes(loader_, shared_.stages.modules[module]);
      if (is_streamed(module)) {
        largest_streamed = std::max(largest_streamed, bytes);
      } else {
        resident_bytes += bytes;
        resident.push_back(module);
      }
    }
  }
  const std::size_t at_once = shared_.stages.layers_apart ? 1 : 2;
  ops_.reserve(resident_bytes + at_once * largest_streamed);
  for (const std::size_t module : resident) weights_[module] = forward_.load(loader_, shared_.stages.modules[module]);
  wait_for("loading", load_seconds_, [&] { bring_resident(); });
  is_loading_ = false;
  const bool are_sent = std::ranges::any_of(options_.stages, [](const auto& ends) { return ends.out != nullptr; });
  forward_.prepare(options_.max_tokens, alone_ ? 1 : shared_.stages.largest_wave(), loader_.rope_divisors(), are_sent);
  if (!alone_) {
    const auto& plan = shared_.prepared.plan;
    const std::size_t bytes =
        static_cast<std::size_t>(options_.max_tokens * shared_.prepared.config.hidden_size) * size_of(plan.dtype);
    const std::size_t count = shared_.stages.largest_wave();
    const std::size_t fitting = std::min<std::size_t>(count, options_.states_bytes / bytes);
    for (std::size_t i = 0; i < fitting; ++i) {
      slots_.push_back(are_sent ? ops_.allocate_shared(bytes) : ops_.allocate(bytes));
    }
    for (std::size_t i = fitting; i < count; ++i) rooms_.push_back(ops_.allocate_on_host(bytes));
    on_host_.resize(rooms_.size());
  }
  load_seconds_ = seconds_since(start);
}

/// From the checkpoint, or from the device of another replica that has read it.
void DeviceRun::bring_resident() {
  std::unique_ptr<device::Loads> loads;
  if (options_.donor == nullptr) loads = loader_.start();
  recorder_.start_slots();
  if (options_.donor != nullptr) {
    shared_.hub.wait([&] { return options_.donor->has_loaded_; });
    loads = ops_.start_copies(options_.donor->ops_);
    weights_from_ = loads ? options_.donor->ops_.name() : "";
  }
  if (!loads) loads = loader_.start();
  loader_.finish(*loads);
  shared_.hub.change([&] { has_loaded_ = true; });
}

void DeviceRun::wait_until_all_loaded() {
  shared_.hub.change([&] {
    if (--shared_.num_loading > 0) return;
    shared_.telling.begin_running();
    shared_.all_loaded = Clock::now();
  });
  shared_.hub.wait([&] { return shared_.num_loading == 0; });
}

/// The stage that is furthest on goes first: so what a device waits for always comes.
std::optional<std::pair<DeviceRun::StageEnds*, std::size_t>> DeviceRun::next() {
  std::optional<std::pair<StageEnds*, std::size_t>> found;
  bool has_changed = false, all_ended = false;
  wait_for("upstream", upstream_seconds_, [&] {
    shared_.hub.wait([&] {
      all_ended = true;
      for (auto ends = options_.stages.rbegin(); ends != options_.stages.rend() && !found; ++ends) {
        if (ends->has_ended) continue;
        if (const auto wave = next_wave_of(*ends, has_changed)) found = {&*ends, *wave};
        all_ended = all_ended && ends->has_ended;
      }
      return found || all_ended || has_changed;
    });
  });
  if (has_changed) {  // the stages behind are to hear of an end
    for (StageEnds& ends : options_.stages) {
      if (ends.has_ended && ends.out != nullptr) std::exchange(ends.out, nullptr)->end();
    }
  }
  if (!found && !all_ended) return next();
  return found;
}

/// Under the hub's lock.
std::optional<std::size_t> DeviceRun::next_wave_of(StageEnds& ends, bool& has_changed) {
  const std::vector<Wave>& waves = shared_.stages.waves;
  std::size_t wave = shared_.next_wave;
  bool has_ended = false;
  if (shared_.stages.layers_apart) {
    wave = options_.replica;
    has_ended = wave >= waves.size();
  } else if (ends.in == nullptr) {
    has_ended = wave >= waves.size();
  } else {
    has_ended = ends.in->has_ended();
    if (!has_ended && !ends.in->has_message()) return std::nullopt;
    if (!has_ended) {
      const std::size_t task = ends.in->next_task();
      wave = static_cast<std::size_t>(std::ranges::find_if(waves, [&](const Wave& each) { return task < each.end; }) -
                                      waves.begin());
    }
  }
  if (has_ended) {
    ends.has_ended = has_changed = true;
    return std::nullopt;
  }
  if (ends.out != nullptr && !ends.out->has_room(waves[wave].size())) return std::nullopt;
  if (shared_.stages.layers_apart) {
    ends.has_ended = true;  // with this
  } else if (ends.in == nullptr) {
    ++shared_.next_wave;
  }
  return wave;
}

void DeviceRun::run_wave(StageEnds& ends, std::size_t wave) {
  const Stage& stage = shared_.stages.stages[ends.stage];
  const Wave& tasks = shared_.stages.waves[wave];
  states_.assign(tasks.size(), std::nullopt);
  for (std::size_t module = stage.begin; module < stage.end; ++module) {
    const ModuleWeights& weights = weights_of(module, wave);
    for (std::size_t at = 0; at < tasks.size(); ++at) run_task(ends, module, weights, tasks.begin + at, at);
  }
}

void DeviceRun::run_task(StageEnds& ends, std::size_t module, const ModuleWeights& weights, std::size_t index,
                         std::size_t at) {
  const Stage& stage = shared_.stages.stages[ends.stage];
  const RunModule& what = shared_.stages.modules[module];
  const Task& task = shared_.tasks[index];
  const std::int64_t tokens = task.batch.num_tokens();
  const bool is_first = module == stage.begin, is_last = module + 1 == stage.end;
  const std::size_t entry = shared_.stages.entry_of(task);
  const bool layers_apart = shared_.stages.layers_apart;
  std::optional<device::Tensor>& state = states_[at];
  Link::Message message;
  if (is_first && ends.in != nullptr) {
    wait_for("upstream", upstream_seconds_, [&] { message = ends.in->receive(); });
    expect(message.task == index, "tasks come in order");
    state = message.state;
  }
  const bool moves_on = alone_ && !layers_apart;  // to the stage's next module
  if (is_first || !moves_on) busy_->start();
  if (module >= entry) {
    const bool enters = module == entry || layers_apart;
    if (enters) {
      state = place_for(at, tokens, nullptr);
      if (what.kind != RunModule::Kind::embedding) feed(module, task, *state);
    } else if (!is_first) {
      state = enter(at, tokens);
    }
    const device::Tensor out = what.kind == RunModule::Kind::embedding ? *state : place_for(at, tokens, state->data);
    forward_.run(what, weights, task.batch, *state, out);
    state = out;
    if (what.kind == RunModule::Kind::layer) shared_.telling.ran(tokens);
  }
  if (is_last || !moves_on) busy_->stop();
  if (is_first && ends.in != nullptr) ends.in->release(message);
  if (is_last && ends.out != nullptr) {
    wait_for("downstream", downstream_seconds_, [&] { ends.out->send(index, state); });
    if (waits_on_host(at)) place_free_[at % 2] = ops_.moment();
  } else if (!is_last && state) {
    leave(at, *state);
  }
}

device::Tensor DeviceRun::place_for(std::size_t at, std::int64_t tokens, const void* in) const {
  if (alone_) {
    if (in == nullptr) return forward_.first_place(tokens);
    const device::Tensor first = forward_.place(0, tokens);
    return in == first.data ? forward_.place(1, tokens) : first;
  }
  if (waits_on_host(at)) return forward_.place(at % 2, tokens);
  const auto& plan = shared_.prepared.plan;
  return device::Tensor::contiguous(slots_[at].data(), plan.dtype, tokens, shared_.prepared.config.hidden_size);
}

device::Tensor DeviceRun::enter(std::size_t at, std::int64_t tokens) {
  if (!waits_on_host(at)) return *states_[at];
  const std::size_t room = at - slots_.size();
  const device::Tensor place = forward_.place(at % 2, tokens);
  on_host_[room]->wait();
  const auto arrived = ops_.start_copy_from_host(place, rooms_[room].data(), place_free_[at % 2].get());
  ops_.follow(*arrived);
  return place;
}

void DeviceRun::leave(std::size_t at, const device::Tensor& state) {
  if (!waits_on_host(at)) return;
  const std::size_t room = at - slots_.size();
  ops_.start_copy_to_host(rooms_[room].data(), state);
  on_host_[room] = ops_.mark();
  place_free_[at % 2] = ops_.moment();
}

void DeviceRun::feed(std::size_t module, const Task& task, const device::Tensor& out) {
  const Prepared& prepared = shared_.prepared;
  const plan::Plan& plan = prepared.plan;
  const std::int64_t first_token = prepared.prompts.cu_seqlens[static_cast<std::size_t>(task.batch.first_prompt)];
  fed_.resize(static_cast<std::size_t>(out.rows * out.columns) * size_of(plan.dtype));
  if (task.from_capture) {
    const auto before = plan.find_block(plan.layers[task.first_layer - 1]);
    shared_.writer->read_rows(*before, first_token, fed_);
  } else {
    prepared.hidden_states->read(shared_.stages.modules[module].layer, first_token, out.rows, plan.dtype, fed_);
  }
  ops_.copy_from_host(out, fed_.data());
}

/// Where it fails, the layer is named.
template <typename Work>
void DeviceRun::named(std::size_t module, Work&& work) {
  try {
    work();
  } catch (const Error& error) {
    const RunModule& what = shared_.stages.modules[module];
    if (what.kind != RunModule::Kind::layer || error.kind() == ErrorKind::interrupted) throw;
    throw error.within(text("layer ", what.layer));
  }
}

void DeviceRun::start_loading(std::size_t module) {
  coming_.reset();
  coming_.emplace();
  coming_->module = module;
  const RunModule& what = shared_.stages.modules[module];
  named(module, [&] {
    coming_->weights = forward_.load(loader_, what, /*with_experts=*/!options_.brings_chosen);
    coming_->loads = loader_.start();
  });
  if (!options_.brings_chosen || what.kind != RunModule::Kind::layer) return;
  if (!shared_.prepared.config.has_experts(what.layer)) return;
  coming_->weights.layer.bring_experts = [this, module](std::span<const std::int64_t> chosen) {
    return bring_experts(module, chosen);
  };
}

/// In the midst of its layer, which waits.
model::Experts DeviceRun::bring_experts(std::size_t module, std::span<const std::int64_t> chosen) {
  model::Experts experts;
  busy_->stop();
  is_bringing_experts_ = true;
  wait_for("weights", shared_.stages.layers_apart ? load_seconds_ : weights_seconds_, [&] {
    experts = loader_.experts(shared_.stages.modules[module].layer, chosen);
    loader_.finish(*loader_.start());
  });
  is_bringing_experts_ = false;
  busy_->start();
  chosen_experts_.num_read += static_cast<std::int64_t>(chosen.size());
  chosen_experts_.num_all += shared_.prepared.config.experts->num_experts;
  return experts;
}

std::optional<std::size_t> DeviceRun::streamed_after(std::size_t module, std::size_t wave) const {
  if (shared_.stages.layers_apart) return std::nullopt;
  const auto next = std::ranges::upper_bound(streamed_, module);
  if (next != streamed_.end()) return *next;
  if (wave + 1 >= shared_.stages.waves.size() || streamed_.size() == 1) return std::nullopt;
  return streamed_.front();
}

const ModuleWeights& DeviceRun::weights_of(std::size_t module, std::size_t wave) {
  if (!is_streamed(module)) return weights_[module];
  if (current_ && current_->module == module) return current_->weights;
  const bool layers_apart = shared_.stages.layers_apart;
  if (layers_apart) current_.reset();  // there is room for one
  std::atomic<double>& seconds = layers_apart ? load_seconds_ : weights_seconds_;
  wait_for("weights", seconds, [&] {
    if (!coming_ || coming_->module != module) start_loading(module);
    named(module, [&] { loader_.finish(*coming_->loads); });
  });
  coming_->loads.reset();
  current_ = std::move(coming_);
  coming_.reset();
  if (const auto following = streamed_after(module, wave)) start_loading(*following);
  return current_->weights;
}

DeviceState DeviceRun::state() const {
  const char* waits_for = waits_for_;
  return {.name = ops_.name(),
          .modules = options_.modules,
          .memory_bytes = ops_.memory_use().bytes,
          .waits_for = *waits_for == '\0' && recorder_.is_waiting() ? "the ring of captures" : waits_for,
          .weights_seconds = weights_seconds_,
          .upstream_seconds = upstream_seconds_,
          .downstream_seconds = downstream_seconds_,
          .ring_seconds = recorder_.waited_seconds()};
}

RunReport::Device DeviceRun::report(double run_seconds) const {
  const double busy = busy_->seconds();
  return {.name = ops_.name(),
          .modules = options_.modules,
          .replica = static_cast<std::int64_t>(options_.replica),
          .weights_from = weights_from_,
          .most_bytes = ops_.memory_use().most_bytes,
          .busy_seconds = busy,
          .busy_share = run_seconds > 0 ? std::min(busy / run_seconds, 1.0) : 0,
          .waited_for_weights_seconds = weights_seconds_,
          .waited_for_upstream_seconds = upstream_seconds_,
          .waited_for_downstream_seconds = downstream_seconds_,
          .waited_for_ring_seconds = recorder_.waited_seconds()};
}

}  // namespace layerprobe::runtime
