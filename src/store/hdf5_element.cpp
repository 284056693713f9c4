#include "store/hdf5_element.h"

namespace layerprobe::store::hdf5 {

std::size_t size_of(Element element) {
  switch (element) {
    case Element::u8:
      return 1;
    case Element::f16:
    case Element::bf16:
      return 2;
    case Element::i32:
    case Element::f32:
      return 4;
    case Element::i64:
    case Element::f64:
      return 8;
  }
  return 0;
}

const char* name_of(Element element) {
  static constexpr const char* kNames[] = {"u8", "i32", "i64", "f16", "bf16", "f32", "f64"};
  return kNames[static_cast<std::size_t>(element)];
}

Element element_of(Dtype dtype) {
  switch (dtype) {
    case Dtype::f64:
      return Element::f64;
    case Dtype::f32:
      return Element::f32;
    case Dtype::f16:
      return Element::f16;
    case Dtype::bf16:
      return Element::bf16;
    case Dtype::i32:
      return Element::i32;
  }
  return Element::u8;
}

}  // namespace layerprobe::store::hdf5
