#include "support/compile.h"

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <map>

#include "test.h"

namespace test {
namespace {

namespace fs = std::filesystem;

// Gone with the process.
struct Folder {
  fs::path path;
  Folder() {
    std::string name = (fs::temp_directory_path() / "jit-arena-XXXXXX").string();
    if (mkdtemp(name.data()) != nullptr) path = name;
  }
  ~Folder() {
    std::error_code ignored;
    fs::remove_all(path, ignored);
  }
};

const fs::path& InFolder() {
  static Folder folder;
  return folder.path;
}

// Each object is made once.
std::vector<uint8_t> CompileFile(const fs::path& file, const std::string& flags, const std::string& compiler) {
  static std::map<std::string, std::vector<uint8_t>> made;
  std::string command = compiler + " -c " + flags + " '" + file.string() + "'";
  auto [found, is_new] = made.try_emplace(command);
  if (!is_new) return found->second;
  fs::path out = InFolder() / (std::to_string(made.size()) + ".o");
  if (std::system((command + " -o '" + out.string() + "'").c_str()) != 0) {
    Fail(__FILE__, __LINE__, "does not compile: " + command);
    return {};
  }
  std::ifstream object(out, std::ios::binary);
  found->second.assign(std::istreambuf_iterator<char>(object), {});
  return found->second;
}

}  // namespace

const std::vector<std::string>& Compilers() {
  static const std::vector<std::string> compilers = [] {
    std::vector<std::string> found;
    for (const char* name : {"cc", "clang"})
      if (std::system((std::string(name) + " --version >/dev/null 2>&1").c_str()) == 0) found.push_back(name);
    return found;
  }();
  return compilers;
}

std::vector<uint8_t> CompileText(const std::string& text, const std::string& flags, const std::string& compiler,
                                 const std::string& suffix) {
  static std::map<std::string, fs::path> files;
  auto [found, is_new] = files.try_emplace(suffix + text);
  if (is_new) {
    found->second = InFolder() / ("text" + std::to_string(files.size()) + suffix);
    std::ofstream(found->second) << text;
  }
  return CompileFile(found->second, flags, compiler);
}

std::vector<uint8_t> CompileFixture(const std::string& name, const std::string& flags, const std::string& compiler) {
  return CompileFile(fs::path(TEST_FIXTURES) / name, flags, compiler);
}

}  // namespace test
