#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace layerprobe::placement {

/// A model as transformers has it: modules in the order of their registration, with their own parameters and buffers.
/// What `balanced`, `balanced_low_0` and `sequential` look at.
struct TreeModule {
  struct Tensor {
    std::string name;  // the whole path: "model.norm.weight"
    std::uint64_t bytes = 0;
    std::string tied_to = {};  // the parameter that it is another name of; it counts 0 bytes then
  };
  std::string name;          // the whole path: "model.norm"; "" for the root
  bool is_no_split = false;  // a decoder layer: it goes to one device
  std::vector<Tensor> parameters = {};
  std::vector<Tensor> buffers = {};
  std::vector<TreeModule> children = {};
  std::uint64_t bytes = 0;  // of all in it; set by sum_bytes
};

/// Adds a tensor by its whole path, with the modules above it. Tensors of one module follow each other.
void add_tensor(TreeModule& root, TreeModule::Tensor tensor, bool is_buffer = false);

/// Sets `bytes` of every module, ties at 0. Before anything below.
void sum_bytes(TreeModule& root);

/// Is `name` the module or tensor `prefix`, or in it? "model.layers.1" is not a prefix of "model.layers.10"; "" is one
/// of all.
bool is_within(std::string_view name, std::string_view prefix);

}  // namespace layerprobe::placement
