// What a view of JavaScript's has in memory. It is asked of the engine, and no property of the object is read: a
// program can give those any value, and machine code is to use what is there.
#pragma once

#include <napi.h>

#include <cstdint>

namespace jit_arena::node {

template <class T>
inline constexpr napi_typedarray_type kArrayType = napi_uint8_array;
template <>
inline constexpr napi_typedarray_type kArrayType<uint32_t> = napi_uint32_array;
template <>
inline constexpr napi_typedarray_type kArrayType<double> = napi_float64_array;

template <class T>
struct Elements {
  T* data = nullptr;
  size_t count = 0;
  T& operator[](size_t i) const { return data[i]; }
};

// The elements of a typed array of this type; none of any other value, and none where the memory has been detached.
template <class T>
Elements<T> ElementsOf(const Napi::Value& value) {
  napi_typedarray_type type{};
  size_t count = 0;
  void* data = nullptr;
  if (napi_get_typedarray_info(value.Env(), value, &type, &count, &data, nullptr, nullptr) != napi_ok) return {};
  if (type != kArrayType<T> || data == nullptr) return {};
  return {static_cast<T*>(data), count};
}

// The first byte of any view; null where the memory has been detached.
inline const void* AddressOfView(const Napi::Value& value) {
  void* data = nullptr;
  bool is_data_view = false;
  napi_is_dataview(value.Env(), value, &is_data_view);
  if (is_data_view)
    napi_get_dataview_info(value.Env(), value, nullptr, &data, nullptr, nullptr);
  else
    napi_get_typedarray_info(value.Env(), value, nullptr, nullptr, &data, nullptr, nullptr);
  return data;
}

}  // namespace jit_arena::node
