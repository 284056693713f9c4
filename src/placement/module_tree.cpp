#include "placement/module_tree.h"

#include <utility>

namespace layerprobe::placement {

void add_tensor(TreeModule& root, TreeModule::Tensor tensor, bool is_buffer) {
  TreeModule* module = &root;
  for (std::size_t dot = tensor.name.find('.'); dot != std::string::npos; dot = tensor.name.find('.', dot + 1)) {
    std::string name = tensor.name.substr(0, dot);
    if (module->children.empty() || module->children.back().name != name) {
      module->children.push_back({.name = std::move(name)});
    }
    module = &module->children.back();
  }
  (is_buffer ? module->buffers : module->parameters).push_back(std::move(tensor));
}

void sum_bytes(TreeModule& root) {
  root.bytes = 0;
  for (std::vector<TreeModule::Tensor>* tensors : {&root.parameters, &root.buffers}) {
    for (TreeModule::Tensor& tensor : *tensors) {
      if (!tensor.tied_to.empty()) tensor.bytes = 0;
      root.bytes += tensor.bytes;
    }
  }
  for (TreeModule& child : root.children) {
    sum_bytes(child);
    root.bytes += child.bytes;
  }
}

bool is_within(std::string_view name, std::string_view prefix) {
  return prefix.empty() || (name.starts_with(prefix) && (name.size() == prefix.size() || name[prefix.size()] == '.'));
}

}  // namespace layerprobe::placement
