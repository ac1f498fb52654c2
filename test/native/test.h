// A small harness for the C++ tests: no dependency, no exceptions, one executable per *_test.cc.
//
//   TEST(slab_finds_the_lowest_fit) {
//     CHECK(slab.Allocate(3).ok());
//     CHECK_EQ(slab.free_granules(), 13u);
//   }
//
// A failed check prints itself and the test goes on. `x_test NAME` runs the tests whose name contains NAME; `x_test
// -NAME` leaves out the test NAME, and says so.
#pragma once

#include <cstdio>
#include <cstring>
#include <sstream>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

namespace test {

struct Case {
  const char* name;
  void (*run)();
};

inline std::vector<Case> cases;
inline int failed_checks = 0;  // of the test that is running

struct Registration {
  Registration(const char* name, void (*run)()) { cases.push_back({name, run}); }
};

inline void Fail(const char* file, int line, const std::string& what) {
  ++failed_checks;
  std::printf("  %s:%d: %s\n", file, line, what.c_str());
}

template <class T>
std::string Show(const T& value) {
  std::ostringstream out;
  if constexpr (std::is_same_v<T, bool>) {
    out << (value ? "true" : "false");
  } else if constexpr (std::is_integral_v<T>) {
    out << +value << " (0x" << std::hex << +value << ")";  // + also turns a uint8_t from a letter into a number
  } else if constexpr (std::is_enum_v<T>) {
    out << +static_cast<std::underlying_type_t<T>>(value);
  } else if constexpr (requires { out << value; }) {
    out << value;
  } else {
    out << "(no printable form)";
  }
  return out.str();
}

// Compares by value also where the signs of the types differ: CHECK_EQ(list.size(), 3).
template <class A, class B>
bool Equal(const A& a, const B& b) {
  constexpr bool kBools = std::is_same_v<A, bool> || std::is_same_v<B, bool>;
  if constexpr (std::is_integral_v<A> && std::is_integral_v<B> && !kBools) {
    return std::cmp_equal(+a, +b);
  } else {
    return a == b;
  }
}

template <class A, class B>
void CheckEq(const A& actual, const B& expected, const char* text, const char* file, int line) {
  if (Equal(actual, expected)) return;
  Fail(file, line, std::string(text) + "\n    actual   " + Show(actual) + "\n    expected " + Show(expected));
}

inline int RunAll(const std::vector<std::string>& arguments) {
  int ran = 0, failed = 0, left_out = 0;
  for (const Case& c : cases) {
    bool is_asked = true, is_left_out = false;
    for (const std::string& argument : arguments) {
      if (argument.starts_with('-'))
        is_left_out = is_left_out || argument.substr(1) == c.name;
      else
        is_asked = is_asked && std::strstr(c.name, argument.c_str()) != nullptr;
    }
    if (is_asked && is_left_out) {
      std::printf("skip %s\n", c.name);
      left_out++;
    }
    if (!is_asked || is_left_out) continue;
    failed_checks = 0;
    c.run();
    ++ran;
    failed += failed_checks != 0;
    std::printf("%s %s\n", failed_checks == 0 ? "ok  " : "FAIL", c.name);
    std::fflush(stdout);  // a later crash must not swallow what is known
  }
  std::printf("%d passed, %d failed", ran - failed, failed);
  std::printf(left_out != 0 ? ", %d skipped\n" : "\n", left_out);
  return failed == 0 && ran != 0 ? 0 : 1;  // a filter that matches nothing is a mistake
}

}  // namespace test

#define TEST(name)                                                     \
  static void name();                                                  \
  static const ::test::Registration name##_registration(#name, &name); \
  static void name()

#define CHECK(condition) ((condition) ? static_cast<void>(0) : ::test::Fail(__FILE__, __LINE__, #condition))

#define CHECK_EQ(actual, expected) ::test::CheckEq(actual, expected, #actual " == " #expected, __FILE__, __LINE__)
