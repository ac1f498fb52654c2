// Objects that the compilers of this machine make, as test/support/compile.ts has them for the tests in TypeScript.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace test {

// `cc` and `clang`, those that are installed.
const std::vector<std::string>& Compilers();

// The object that the compiler makes of the text with `-c` and these flags; `suffix` says the language. A text that
// does not compile is a failed check.
std::vector<uint8_t> CompileText(const std::string& text, const std::string& flags, const std::string& compiler = "cc",
                                 const std::string& suffix = ".c");
// The same of a file in test/fixtures.
std::vector<uint8_t> CompileFixture(const std::string& name, const std::string& flags,
                                    const std::string& compiler = "cc");

}  // namespace test
