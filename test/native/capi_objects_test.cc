// Objects through the C API: the cases of test/70-objects.test.ts and test/72-real-code.test.ts, and what only C can
// do wrong.
#include <dlfcn.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <functional>
#include <map>
#include <string>
#include <thread>
#include <vector>

#include "capi_host.h"
#include "support/compile.h"

using namespace capi_test;
using namespace test;

static std::atomic<int> loader_asked{0};
// In the place of libc's, which it asks.
extern "C" void* dlsym(void* where, const char* name) noexcept {
  static auto ask = reinterpret_cast<void* (*)(void*, const char*)>(dlvsym(RTLD_NEXT, "dlsym", "GLIBC_2.2.5"));
  loader_asked++;
  return ask(where, name);
}

namespace {

const std::string kPic = "-O2 -fPIC";
const std::string kSections = kPic + " -ffunction-sections";

using Resolve = std::function<int(const std::string& name, bool weak, bool defined, ja_place* place)>;

ja_status Load(const std::vector<uint8_t>& bytes, const Resolve& resolve, ja_object** object,
               const char* name = nullptr) {
  ja_object_options options = ja_object_options_init();
  options.name = name;
  if (resolve) {
    options.user = const_cast<Resolve*>(&resolve);
    options.resolve = [](void* user, const char* symbol, uint8_t weak, uint8_t defined, ja_place* place) {
      return (*static_cast<Resolve*>(user))(symbol, weak != 0, defined != 0, place);
    };
  }
  return ja_load_object(bytes.data(), bytes.size(), &options, object);
}

// An object that is loaded, until the end of its scope.
struct Object {
  ja_object* handle = nullptr;
  explicit Object(const std::vector<uint8_t>& bytes, const Resolve& resolve = {}, const char* name = nullptr) {
    CHECK_OK(Load(bytes, resolve, &handle, name));
  }
  ~Object() { CHECK_OK(ja_unload_object(handle)); }
  Object(const Object&) = delete;
  Object& operator=(const Object&) = delete;

  ja_object_info Info() const {
    ja_object_info info = ja_object_info_init();
    CHECK_OK(ja_describe_object(handle, &info));
    return info;
  }
  std::vector<ja_symbol> Symbols() const {
    std::vector<ja_symbol> symbols(Info().symbols, ja_symbol_init());
    for (size_t i = 0; i < symbols.size(); i++) CHECK_OK(ja_object_symbol(handle, i, &symbols[i]));
    return symbols;
  }
  ja_symbol Find(const char* name) const {
    ja_symbol symbol = ja_symbol_init();
    CHECK_OK(ja_find_symbol(handle, name, &symbol));
    return symbol;
  }
  std::string Reasons() const {
    std::string all;
    for (size_t i = 0; i < Info().reasons; i++) {
      const char* reason = nullptr;
      CHECK_OK(ja_object_reason(handle, i, nullptr, &reason));
      all.append(reason != nullptr ? reason : "no reason").append("; ");
    }
    return all;
  }
};

struct Installed {
  Host& host;
  const Object& object;
  std::vector<ja_executor> ids;
  Installed(Host& in, const Object& of, ja_choice movable = JA_DEFAULT)
      : host(in), object(of), ids(of.Info().executors) {
    ja_install_options options = ja_install_options_init();
    options.movable = movable;
    CHECK_OK(ja_install_object(host.arena, object.handle, &options, ids.data(), ids.size()));
  }
  void Free() { CHECK_OK(ja_free(host.arena, ids.data(), ids.size())); }

  ja_place Place(const char* name) const {
    ja_symbol symbol = object.Find(name);
    return {ids[symbol.executor], symbol.section, symbol.offset, 0};
  }
  template <class F, class... Arguments>
  auto Call(const char* name, Arguments... arguments) const {
    ja_symbol symbol = object.Find(name);
    uint32_t offset = 0;
    uint64_t address = 0;
    CHECK_OK(ja_entry_offset(host.arena, ids[symbol.executor], symbol.entry, &offset));
    CHECK_OK(ja_enter(host.thread));
    CHECK_OK(ja_entry(host.thread, ids[symbol.executor], &address));
    auto result = reinterpret_cast<F*>(address + offset)(arguments...);
    CHECK_OK(ja_leave(host.thread));
    return result;
  }
  int Int(const char* name, int a) const { return Call<int(int)>(name, a); }
  int Int(const char* name) const { return Call<int()>(name); }
  std::vector<uint64_t> Addresses() const {
    std::vector<uint64_t> addresses;
    for (ja_executor id : ids) addresses.push_back(host.Address(id));
    return addresses;
  }
};

size_t CountExecutors(const Host& host) {
  size_t count = 0;
  CHECK_OK(ja_executors(host.arena, nullptr, 0, &count));
  return count;
}

// No thread has a pin: what is freed is reclaimed.
bool NobodyIsInside(ja_arena* arena) {
  Code code = Trace(1);
  ja_executor id = 0;
  CHECK_OK(ja_install(arena, code.Spec(), 1, &id));
  CHECK_OK(ja_free(arena, &id, 1));
  CHECK_OK(ja_collect(arena, nullptr, nullptr));
  ja_stats_result stats = ja_stats_result_init();
  CHECK_OK(ja_stats(arena, &stats));
  return stats.retired_bytes == 0;
}

bool Says(const char* words) { return std::string(ja_last_error()->message).find(words) != std::string::npos; }

void CheckRefused(const std::vector<uint8_t>& bytes, ja_status expected, const char* words) {
  ja_object* object = nullptr;
  auto one = [](const std::string&, bool, bool, ja_place* place) { return place->address = 1, 1; };
  CHECK_STATUS(Load(bytes, one, &object), expected);
  CHECK(Says(words));
  CHECK(object == nullptr);
}

}  // namespace

TEST(an_object_is_one_executor_with_an_entry_for_each_function) {
  Host host;
  for (const std::string& compiler : Compilers()) {
    Object object(CompileFixture("recursion.c", kPic, compiler));
    CHECK_EQ(object.Info().executors, 1u);
    Installed x(host, object);
    CHECK_EQ(x.Int("is_even", 10), 1);
    CHECK_EQ(x.Int("is_odd", 10), 0);
    CHECK_EQ(x.Int("fib", 20), 6765);
    CHECK_EQ((x.Call<int(int, int)>("ackermann", 3, 4)), 125);
    x.Free();
  }
}

TEST(with_function_sections_each_has_its_name_and_moves_alone) {
  Host host;
  Object object(CompileFixture("recursion.c", kSections));
  Object named(CompileFixture("recursion.c", kSections), {}, "mine");
  CHECK_EQ(object.Info().executors, 4u);
  host.MakeSparse();
  Installed x(host, object), y(host, named);
  std::vector<std::string> names;
  for (ja_executor id : x.ids) {
    ja_info info = ja_info_init();
    CHECK_OK(ja_describe(host.arena, id, &info));
    names.push_back(info.name);
    CHECK(info.movable);
  }
  std::sort(names.begin(), names.end());
  CHECK(names == (std::vector<std::string>{"ackermann", "fib", "is_even", "is_odd"}));
  for (ja_executor id : y.ids) {
    ja_info info = ja_info_init();
    CHECK_OK(ja_describe(host.arena, id, &info));
    CHECK_EQ(std::string(info.name), "mine");
  }
  std::vector<uint64_t> before = x.Addresses();
  CHECK(host.Collect().moved >= 4);
  for (size_t i = 0; i < before.size(); i++) CHECK(x.Addresses()[i] != before[i]);
  CHECK_EQ(x.Int("is_even", 11), 0);
  CHECK_EQ((x.Call<int(int, int)>("ackermann", 2, 3)), 9);
}

TEST(each_install_has_variables_of_its_own) {
  Host host;
  Object object(CompileText("static int count; int next(void) { return ++count; }", kPic));
  Installed x(host, object), y(host, object);
  CHECK_EQ(x.Int("next"), 1);
  CHECK_EQ(x.Int("next"), 2);
  CHECK_EQ(y.Int("next"), 1);
  y.Free();
  CHECK_EQ(x.Int("next"), 3);
}

TEST(an_object_goes_and_what_was_installed_stays) {
  Host host;
  std::vector<ja_executor> ids(1);
  {
    std::vector<uint8_t> bytes = CompileText("int twice(int a) { return 2 * a; }", kPic);
    Object object(bytes);
    std::fill(bytes.begin(), bytes.end(), uint8_t{0xEE});  // nobody needs them any more
    CHECK_OK(ja_install_object(host.arena, object.handle, nullptr, ids.data(), ids.size()));
    CHECK_EQ(std::string(object.Find("twice").name), "twice");
  }
  uint64_t address = 0;
  CHECK_OK(ja_enter(host.thread));
  CHECK_OK(ja_entry(host.thread, ids[0], &address));
  CHECK_EQ(reinterpret_cast<int (*)(int)>(address)(21), 42);
  CHECK_OK(ja_leave(host.thread));
}

TEST(symbols_are_told_with_kind_and_place) {
  Object object(
      CompileText("extern int away(int); __attribute__((weak)) int maybe(int); const int table[3] = {1, 2, 3};"
                  "int counter = 4; int f(int a) { return away(a) + (maybe ? maybe(a) : 0) + table[a]; }",
                  kPic),
      [](const std::string& name, bool, bool, ja_place* place) {
        place->address = 4096;
        return name == "away";
      });
  std::map<std::string, ja_symbol> symbols;
  bool needed = false;
  for (const ja_symbol& symbol : object.Symbols()) {
    symbols[symbol.name] = symbol;
    CHECK(!needed || !symbol.defined);  // those come last
    needed = needed || !symbol.defined;
  }
  CHECK_EQ(symbols.size(), 5u);
  CHECK(symbols["f"].defined && symbols["f"].section == JA_CODE && symbols["f"].entry == 0 && symbols["f"].size > 0);
  CHECK(symbols["table"].section == JA_DATA && symbols["table"].size == 12 && symbols["table"].entry == JA_NO_ENTRY);
  CHECK(symbols["counter"].section == JA_STATE && symbols["counter"].defined);
  CHECK(!symbols["away"].defined && !symbols["away"].weak && symbols["away"].entry == JA_NO_ENTRY);
  CHECK(!symbols["maybe"].defined && symbols["maybe"].weak);
  ja_symbol symbol = ja_symbol_init();
  CHECK_STATUS(ja_find_symbol(object.handle, "away", &symbol), JA_ERR_SYMBOL);
  CHECK(Says("'away', but f"));
  CHECK(symbol.name == nullptr);
}

TEST(the_host_is_asked_first_and_then_the_process) {
  Host host;
  const std::string text =
      "extern int hidden(int); __attribute__((weak)) extern int maybe(int);"
      "int f(int a) { return hidden(a) + (maybe ? maybe(a) : 1000); }"
      "int absolute(int a) { extern int abs(int); return (abs)(a); }";
  std::vector<uint8_t> bytes = CompileText(text, kPic + " -fno-builtin");
  static auto seven = [](int) { return 7; };
  auto function = static_cast<int (*)(int)>(seven);
  std::map<std::string, std::pair<bool, bool>> asked;
  bool with_maybe = true;
  Resolve resolve = [&](const std::string& name, bool weak, bool defined, ja_place* place) {
    asked[name] = {weak, defined};
    place->address = reinterpret_cast<uint64_t>(function);
    return name == "hidden" || (name == "maybe" && with_maybe);
  };
  Object both(bytes, resolve);
  CHECK(asked == (std::map<std::string, std::pair<bool, bool>>{
                     {"abs", {false, false}}, {"hidden", {false, false}}, {"maybe", {true, false}}}));
  Installed x(host, both);
  CHECK_EQ(x.Int("f", 1), 14);
  CHECK_EQ(x.Int("absolute", -5), 5);
  with_maybe = false;
  Object one(bytes, resolve);
  CHECK_EQ(Installed(host, one).Int("f", 1), 1007);
  ja_object* none = nullptr;
  CHECK_STATUS(Load(bytes, {}, &none), JA_ERR_SYMBOL);
  CHECK(Says("'hidden'"));
  CHECK(none == nullptr);
}

TEST(of_a_weak_definition_there_can_be_one_instance) {
  Host host;
  auto text = [](const std::string& name) {
    return "struct S { static S &get() { static S s; return s; } int v = 5; }; inline int shared = 1;"
           "extern \"C\" int " +
           name + "() { S::get().v++; return S::get().v * 100 + ++shared; }";
  };
  for (const std::string& compiler : Compilers()) {
    for (const char* flags : {"-O0", "-O2", "-O2 -fPIE", "-O1 -fvisibility=hidden"}) {
      auto compiled = [&](const char* name) {
        return CompileText(text(name), std::string("-std=c++17 -fPIC ") + flags, compiler, ".cc");
      };
      Object a(compiled("a"));
      Installed in_a(host, a);
      bool asked_for_shared = false;
      Object b(compiled("b"), [&](const std::string& name, bool weak, bool defined, ja_place* place) {
        if (name == "shared") asked_for_shared = weak && defined;
        if (defined) *place = in_a.Place(name.c_str());
        return defined;
      });
      CHECK(asked_for_shared);
      Installed in_b(host, b);
      CHECK_EQ(in_a.Int("a"), 602);
      CHECK_EQ(in_b.Int("b"), 703);
      CHECK_EQ(in_a.Int("a"), 804);
      // Without an answer it has its own.
      Object own(compiled("b"));
      Installed alone(host, own);
      CHECK_EQ(alone.Int("b"), 602);
      alone.Free();
      in_b.Free();
      in_a.Free();
    }
  }
}

TEST(objects_refer_to_each_other_and_to_executors) {
  Host host;
  Object a(CompileFixture("pair_a.c", kPic));
  Installed in_a(host, a, JA_NO);
  Resolve resolve = [&](const std::string& name, bool, bool, ja_place* place) {
    *place = in_a.Place(name.c_str());
    return 1;
  };
  for (const std::string& flags :
       {kPic, kSections, std::string("-O0 -fPIE"), std::string("-O2 -fno-pic -mcmodel=large")}) {
    Object b(CompileFixture("pair_b.c", flags), resolve);
    Installed in_b(host, b);
    CHECK_EQ(in_b.Int("triple_square", 4), 48);
    CHECK_STATUS(ja_free(host.arena, in_a.ids.data(), in_a.ids.size()), JA_ERR_REFERENCED);
    in_b.Free();
  }
  in_a.Free();
}

TEST(an_address_of_what_can_move_is_taken_only_with_a_promise) {
  Host host;
  Object a(CompileFixture("pair_a.c", kPic));
  Installed in_a(host, a, JA_YES);
  Object b(CompileFixture("pair_b.c", kPic), [&](const std::string& name, bool, bool, ja_place* place) {
    *place = in_a.Place(name.c_str());
    return 1;
  });
  size_t before = CountExecutors(host);
  std::vector<ja_executor> ids(b.Info().executors, 77);
  CHECK_STATUS(ja_install_object(host.arena, b.handle, nullptr, ids.data(), ids.size()), JA_ERR_MOVABLE);
  CHECK(Says("can move"));
  CHECK_EQ(ja_last_error()->executor, in_a.ids[0]);
  CHECK_EQ(ids[0], 77u);
  CHECK_EQ(CountExecutors(host), before);
  CHECK_EQ(Installed(host, b, JA_YES).Int("triple_square", 3), 27);
}

TEST(an_executor_that_is_gone_is_no_target) {
  Host host;
  ja_executor gone = host.Install(Code().Ret());
  Object object(CompileText("void away(void); void f(void) { away(); away(); }", kPic),
                [&](const std::string&, bool, bool, ja_place* place) { return place->executor = gone, 1; });
  CHECK_OK(ja_free(host.arena, &gone, 1));
  ja_executor id = 0;
  CHECK_STATUS(ja_install_object(host.arena, object.handle, nullptr, &id, 1), JA_ERR_RELOC_TARGET);
  CHECK_EQ(id, 0u);
}

TEST(reasons_say_why_an_executor_stays) {
  Host host;
  for (const std::string& compiler : Compilers()) {
    auto reasons = [&](const char* text, const char* flags = "-O2 -fPIE") {
      return Object(CompileText(text, flags, compiler)).Reasons();
    };
    auto has = [](const std::string& text, const char* words) { return text.find(words) != std::string::npos; };
    CHECK_EQ(reasons("static double k = 2.5; double f(double x) { k += x; return k * 1.75; }"), "");
    CHECK(has(reasons("int g(int a) { return a; } void* f(void) { return g; }", "-O2 -fPIC"),
              "takes the address of 'g'"));
    CHECK(has(reasons("int g(int a) { return a; } int (*p)(int) = g;"), "a variable holds the address of 'g'"));
    CHECK(has(reasons("int g(int a) { return a; } int (*const p)(int) = g;"), "a constant holds the address of 'g'"));
    CHECK(has(reasons("#include <ucontext.h>\nucontext_t a, b; void f(void) { swapcontext(&a, &b); }"),
              "'swapcontext' can suspend a stack"));
  }
  Object object(CompileText(
      "int one(int a) { return a + 1; } void* two(void) { return one; } int three(int a) { return one(a); }",
      kSections));
  uint32_t stays = 99;
  const char* reason = nullptr;
  CHECK_OK(ja_object_reason(object.handle, 0, &stays, &reason));
  CHECK_EQ(stays, object.Find("one").executor);
  Installed x(host, object);
  for (uint32_t i = 0; i < x.ids.size(); i++) {
    ja_info info = ja_info_init();
    CHECK_OK(ja_describe(host.arena, x.ids[i], &info));
    CHECK_EQ(info.movable, i != stays);
  }
  // A variable may not hold the address of what moves, whatever is promised.
  Object holder(CompileText("const int c = 5; const int* p = &c; int f(void) { return *p; }", "-O2 -fPIE"));
  CHECK_EQ(Installed(host, holder).Int("f"), 5);
  ja_install_options promised = ja_install_options_init();
  promised.movable = JA_YES;
  ja_executor id = 0;
  CHECK_STATUS(ja_install_object(host.arena, holder.handle, &promised, &id, 1), JA_ERR_RELOC_SITE);
}

TEST(what_would_not_work_is_refused) {
  CheckRefused(CompileText("_Thread_local int v = 3; int f(void) { return v; }", kPic), JA_ERR_OBJECT_UNSUPPORTED,
               "thread-local");
  CheckRefused(CompileText("int f(int i) { return i + 1; }", "-O2 -flto -fno-fat-lto-objects"),
               JA_ERR_OBJECT_UNSUPPORTED, "__gnu_lto_slim");
  CheckRefused(CompileText("extern char away; asm(\".data\\n.byte away\"); int f(int i) { return i; }", kPic),
               JA_ERR_RELOC_KIND, "R_X86_64_8 (14)");
  CHECK_EQ(std::string(ja_last_error()->kind), "R_X86_64_8");
  CheckRefused({}, JA_ERR_OBJECT, "no");
  CheckRefused({'!', '<', 'a', 'r', 'c', 'h', '>', '\n'}, JA_ERR_OBJECT, "archive");

  Host host;
  Object absolute(CompileFixture("switch.c", "-O2 -fno-pic -ffunction-sections"));
  std::vector<ja_executor> ids(absolute.Info().executors);
  CHECK_STATUS(ja_install_object(host.arena, absolute.handle, nullptr, ids.data(), ids.size()), JA_ERR_RELOC_RANGE);
  CHECK(Says("R_X86_64_32"));
  CHECK_EQ(CountExecutors(host), 0u);
}

namespace {
std::vector<int> noted;
void Note(int n) { noted.push_back(n); }
int ResolveNote(const std::string& name, bool, bool, ja_place* place) {
  place->address = reinterpret_cast<uint64_t>(&Note);
  return name == "note";
}
}  // namespace

TEST(constructors_run_when_they_are_asked_for_and_destructors_at_the_end) {
  const std::string text =
      "extern \"C\" void note(int);"
      "struct Noted { int n; explicit Noted(int n) : n(n) { note(n); } ~Noted() { note(-n); } };"
      "static Noted first(1); Noted second(2);"
      "__attribute__((constructor(101))) static void early(void) { note(101); }"
      "__attribute__((destructor)) static void late(void) { note(-101); }"
      "extern \"C\" int use(int n) { static Noted inside(n); return inside.n; }";
  ja_install_options options = ja_install_options_init();
  options.constructors = JA_YES;
  for (const std::string& compiler : Compilers()) {
    for (const char* flags : {"-O0 -fPIC -fno-exceptions", "-O2 -fPIC -fno-exceptions -ffunction-sections"}) {
      // With a place of the calling thread and without one.
      for (bool attached : {true, false}) {
        Host host;
        Object object(CompileText(text, flags, compiler, ".cc"), ResolveNote);
        std::vector<ja_executor> ids(object.Info().executors);
        CHECK_STATUS(ja_install_object(host.arena, object.handle, nullptr, ids.data(), ids.size()),
                     JA_ERR_OBJECT_UNSUPPORTED);
        CHECK(Says("constructors"));
        CHECK_EQ(CountExecutors(host), 0u);
        noted.clear();
        auto both = [&] {
          CHECK_OK(ja_install_object(host.arena, object.handle, &options, ids.data(), ids.size()));
          CHECK(noted == (std::vector<int>{101, 1, 2}));
        };
        auto end = [&](std::vector<int> expected) {
          noted.clear();
          CHECK_OK(ja_free_object(host.arena, object.handle, ids.data(), ids.size()));
          CHECK(noted == expected);
          CHECK_STATUS(ja_free_object(host.arena, object.handle, ids.data(), ids.size()), JA_ERR_STALE_EXECUTOR);
          CHECK(noted == expected);
        };
        if (attached) {
          both();
          ja_symbol use = object.Find("use");
          uint32_t offset = 0;
          uint64_t address = 0;
          CHECK_OK(ja_entry_offset(host.arena, ids[use.executor], use.entry, &offset));
          CHECK_OK(ja_enter(host.thread));
          CHECK_OK(ja_entry(host.thread, ids[use.executor], &address));
          CHECK_EQ(reinterpret_cast<int (*)(int)>(address + offset)(7), 7);
          CHECK_OK(ja_leave(host.thread));
          end({-7, -2, -1, -101});
        } else {
          std::thread(both).join();
          std::thread(end, std::vector<int>{-2, -1, -101}).join();
        }
      }
    }
  }
}

TEST(registered_destructors_are_no_promise) {
  Host host;
  Object object(CompileText("extern \"C\" void note(int); struct Noted { ~Noted() { note(-1); } };"
                            "extern \"C\" int use(int n) { static Noted inside; return n; }",
                            kPic + " -fno-exceptions", "cc", ".cc"),
                ResolveNote);
  Installed x(host, object);
  noted.clear();
  CHECK_EQ(x.Int("use", 3), 3);
  CHECK_OK(ja_free_object(host.arena, object.handle, x.ids.data(), x.ids.size()));
  CHECK(noted == std::vector<int>{-1});
  ja_install_options promised = ja_install_options_init();
  promised.movable = JA_YES;
  CHECK_STATUS(ja_install_object(host.arena, object.handle, &promised, x.ids.data(), x.ids.size()), JA_ERR_MOVABLE);
}

// What it has registered goes with it, whoever ends it.
TEST(an_install_that_has_ended_registers_nothing) {
  Object object(
      CompileText("extern void *__dso_handle; extern int __cxa_atexit(void (*)(void *), void *, void *);"
                  "unsigned long number(void) { return *(unsigned long *)&__dso_handle; }"
                  "unsigned long at(void) { return (unsigned long)&__cxa_atexit; }",
                  kPic));
  using Register = int (*)(void (*)(void*), void*, const uint64_t*);
  auto nothing = [](void*) {};
  enum { kFree, kFreeObject, kDispose };
  for (int how : {kFree, kFreeObject, kDispose}) {
    uint64_t number = 0;
    Register to_register = nullptr;
    {
      Host host;
      Installed x(host, object);
      number = x.Call<uint64_t()>("number");
      to_register = reinterpret_cast<Register>(x.Call<uint64_t()>("at"));
      CHECK_EQ(to_register(nothing, nullptr, &number), 0);
      if (how == kFree) x.Free();
      if (how == kFreeObject) CHECK_OK(ja_free_object(host.arena, object.handle, x.ids.data(), x.ids.size()));
      if (how != kDispose) CHECK_EQ(to_register(nothing, nullptr, &number), -1);
    }
    CHECK_EQ(to_register(nothing, nullptr, &number), -1);
  }
  // Nor does one stand for another, however many there have been.
  Host host;
  Installed x(host, object);
  uint64_t number = x.Call<uint64_t()>("number");
  auto to_register = reinterpret_cast<Register>(x.Call<uint64_t()>("at"));
  for (int i = 0; i < 300; i++) Installed(host, object).Free();
  CHECK_EQ(to_register(nothing, nullptr, &number), 0);
}

TEST(resolvers_say_which_function_an_ifunc_is) {
  Host host;
  static int which = 1;
  Resolve resolve = [](const std::string& name, bool, bool, ja_place* place) {
    auto ask = [] { return which; };
    place->address = reinterpret_cast<uint64_t>(static_cast<int (*)()>(ask));
    return name == "which";
  };
  Object object(
      CompileText("int which(void); static int one(int n) { return n + 1; } static int two(int n) { return n + 2; }"
                  "static void* resolve(void) { int w = which(); return w == 0 ? 0 : w == 1 ? one : two; }"
                  "int f(int) __attribute__((ifunc(\"resolve\"))); int call(int n) { return f(n) * 10; }",
                  kPic),
      resolve);
  Installed x(host, object);
  which = 2;
  Installed y(host, object);
  CHECK_EQ(x.Int("call", 4), 50);
  CHECK_EQ(y.Int("call", 4), 60);
  CHECK_EQ(x.Int("f", 4), 5);
  which = 0;
  std::vector<ja_executor> ids(object.Info().executors);
  CHECK_STATUS(ja_install_object(host.arena, object.handle, nullptr, ids.data(), ids.size()), JA_ERR_SYMBOL);
  CHECK(Says("'f' gave no function"));
  y.Free();
  x.Free();
  CHECK_EQ(CountExecutors(host), 0u);
}

TEST(exceptions_find_their_handlers_also_in_other_objects) {
  const std::string thrower = "extern \"C\" int away(int n) { if (n > 0) throw n; return 5; }";
  const std::string catcher =
      "extern \"C\" int away(int); extern \"C\" void note(int);"
      "struct Noted { ~Noted() { note(1); } };"
      "extern \"C\" int f(int n) { try { Noted noted; return away(n); } catch (int value) { return value * 10; } }"
      "extern \"C\" int g(int n) { try { try { return away(n); } catch (...) { throw; } } catch (int v) { return -v; } "
      "}";
  for (const std::string& compiler : Compilers()) {
    for (const char* flags : {"-O0 -fPIC", "-O2 -fPIC -ffunction-sections"}) {
      Host host;
      Object away(CompileText(thrower, flags, compiler, ".cc"));
      Installed in_away(host, away);
      Object object(CompileText(catcher, flags, compiler, ".cc"),
                    [&](const std::string& name, bool weak, bool defined, ja_place* place) {
                      if (name == "away") return *place = in_away.Place("away"), 1;
                      return ResolveNote(name, weak, defined, place);
                    });
      for (int i = 0; i < 3; i++) {
        Installed x(host, object);
        noted.clear();
        CHECK_EQ(x.Int("f", 3), 30);
        CHECK_EQ(x.Int("f", 0), 5);
        CHECK_EQ(x.Int("g", 4), -4);
        CHECK(noted == (std::vector<int>{1, 1}));
        // Whoever ends it, the unwinder forgets it: the next one lies in the same place.
        if (i != 2) x.Free();
      }
      ja_install_options promised = ja_install_options_init();
      promised.movable = JA_YES;
      std::vector<ja_executor> ids(object.Info().executors);
      CHECK_OK(ja_install_object(host.arena, object.handle, &promised, ids.data(), ids.size()));
    }
  }
}

// The unwinder looks into one table for an address: another install may lie between the parts of one, each with its own
// table.
TEST(exceptions_find_their_handlers_wherever_there_was_room) {
  const std::string text =
      "extern \"C\" int small(int n) { if (n > 0) throw n; return 0; }"
      "extern \"C\" int large(int n) { asm volatile(\".skip 2000, 0x90\");"
      "  try { return small(n); } catch (int value) { return value + 1; } }";
  for (const std::string& compiler : Compilers()) {
    Host host;
    Object object(CompileText(text, kSections + " -fno-inline", compiler, ".cc"));
    CHECK_EQ(object.Info().executors, 2u);
    ja_spec spec = ja_spec_init();
    spec.code.size = 1000;  // for what is small
    spec.movable = JA_NO;
    ja_executor gone = host.Install(&spec);
    Installed x(host, object);
    CHECK_OK(ja_free(host.arena, &gone, 1));
    Installed y(host, object);
    for (const Installed* each : {&x, &y, &x}) CHECK_EQ(each->Int("large", 5), 6);
    y.Free();
    CHECK_EQ(x.Int("large", 7), 8);
  }
}

// An exception that met many new tables once took their number squared.
TEST(the_first_exception_does_not_pay_for_all_installs) {
#if JIT_ARENA_DEBUG
  constexpr int kInstalls = 100;  // each is followed by all the checks
#else
  constexpr int kInstalls = 6000;
#endif
  ja_options options = ja_options_init();
  options.max_bytes = 64 * kMiB;
  Host host(options);
  Object object(CompileText("extern \"C\" int f(int n) { try { throw n; } catch (int value) { return value + 1; } }",
                            kPic, "cc", ".cc"));
  using Clock = std::chrono::steady_clock;
  Clock::time_point begin = Clock::now();
  Installed first(host, object);
  for (int i = 1; i < kInstalls; i++) Installed(host, object);
  Clock::time_point installed = Clock::now();
  CHECK_EQ(first.Int("f", 3), 4);
  CHECK(Clock::now() - installed < installed - begin);
}

TEST(what_a_constructor_throws_is_an_error) {
  const std::string text =
      "#include <new>\n extern \"C\" void note(int);"
      "struct Noted { ~Noted() { note(2); } }; static Noted noted;"
      "__attribute__((constructor(999))) static void first() { note(1); throw std::bad_alloc(); }"
      "__attribute__((destructor)) static void last() { note(3); throw 5; }";
  for (const std::string& compiler : Compilers()) {
    Object object(CompileText(text, kPic, compiler, ".cc"), ResolveNote);
    Host host;
    noted.clear();
    std::vector<ja_executor> ids(object.Info().executors);
    ja_install_options options = ja_install_options_init();
    options.constructors = JA_YES;
    CHECK_STATUS(ja_install_object(host.arena, object.handle, &options, ids.data(), ids.size()), JA_ERR_EXCEPTION);
    CHECK(Says("std::bad_alloc"));
    CHECK_EQ(CountExecutors(host), 0u);
    CHECK(noted.size() >= 2 && noted.front() == 1 && noted.back() == 3);
  }
}

TEST(what_a_destructor_throws_is_an_error_behind_the_free) {
  const std::string text =
      "extern \"C\" void note(int); extern \"C\" int f(int n) { return n; }"
      "__attribute__((destructor)) static void first() { note(1); throw 5; }"
      "__attribute__((destructor)) static void second() { note(2); }";
  Host host;
  Object object(CompileText(text, kPic, "cc", ".cc"), ResolveNote);
  std::vector<ja_executor> ids(object.Info().executors);
  ja_install_options options = ja_install_options_init();
  options.constructors = JA_YES;
  CHECK_OK(ja_install_object(host.arena, object.handle, &options, ids.data(), ids.size()));
  noted.clear();
  CHECK_STATUS(ja_free_object(host.arena, object.handle, ids.data(), ids.size()), JA_ERR_EXCEPTION);
  CHECK(Says("threw int"));
  std::sort(noted.begin(), noted.end());
  CHECK(noted == (std::vector<int>{1, 2}));
  CHECK_EQ(CountExecutors(host), 0u);
}

// Neither the end of a thread nor what another language throws is a C++ exception with a type.
TEST(what_is_no_cpp_exception_leaves_no_pin_behind) {
  const std::string text =
      "#include <pthread.h>\n#include <unwind.h>\n#include <cstring>\n extern \"C\" int how(int);"
      "static void gone(_Unwind_Reason_Code, _Unwind_Exception*) {} static _Unwind_Exception foreign;"
      "__attribute__((constructor)) static void first() {"
      "  if (how(0) == 1) pthread_exit(0);"
      "  std::memset(&foreign, 0, sizeof foreign); std::memcpy(&foreign.exception_class, \"OTHERLNG\", 8);"
      "  foreign.exception_cleanup = gone; _Unwind_RaiseException(&foreign); }"
      "extern \"C\" int f(int n) { try { return how(n); } catch (...) { return 0; } }";
  static std::atomic<int> how;
  how = 0;
  Object object(CompileText(text, kPic, "cc", ".cc"), [](const std::string& name, bool, bool, ja_place* place) {
    int (*ask)(int) = [](int) { return how.load(); };
    place->address = reinterpret_cast<uint64_t>(ask);
    return name == "how";
  });
  Host host;
  ja_install_options options = ja_install_options_init();
  options.constructors = JA_YES;
  std::vector<ja_executor> ids(object.Info().executors);
  // Attached and not.
  CHECK_STATUS(ja_install_object(host.arena, object.handle, &options, ids.data(), ids.size()), JA_ERR_EXCEPTION);
  CHECK(Says("of another language"));
  std::thread([&] {
    CHECK_STATUS(ja_install_object(host.arena, object.handle, &options, ids.data(), ids.size()), JA_ERR_EXCEPTION);
  }).join();
  how = 1;
  for (bool detached : {false, true}) {
    std::atomic<bool> ended{false};
    struct Ending {
      std::atomic<bool>* ended;
      ~Ending() { *ended = true; }
    };
    std::thread thread([&] {
      thread_local Ending ending{&ended};
      (void)&ending;
      std::vector<ja_executor> own(object.Info().executors);
      ja_install_object(host.arena, object.handle, &options, own.data(), own.size());
    });
    detached ? thread.detach() : thread.join();
    while (!ended) std::this_thread::yield();
    CHECK_EQ(CountExecutors(host), 0u);
  }
  CHECK(NobodyIsInside(host.arena));
}

// The thread that runs the constructor is not in the child, and its pin ends there.
TEST(a_child_has_no_pin_of_a_constructor_that_runs_in_its_parent) {
  static std::atomic<bool> inside, may_end;
  inside = may_end = false;
  Object object(CompileText("void wait(void); __attribute__((constructor)) static void first(void) { wait(); }", kPic),
                [](const std::string& name, bool, bool, ja_place* place) {
                  void (*wait)() = [] {
                    inside = true;
                    while (!may_end) std::this_thread::yield();
                  };
                  place->address = reinterpret_cast<uint64_t>(wait);
                  return name == "wait";
                });
  ja_options options = ja_options_init();
  options.max_bytes = 4 * kMiB;
  options.fork = JA_FORK_COPY;
  ja_arena* arena = nullptr;
  CHECK_OK(ja_create(&options, &arena));
  std::vector<ja_executor> ids(object.Info().executors);
  std::thread constructs([&] {
    ja_install_options how = ja_install_options_init();
    how.constructors = JA_YES;
    CHECK_OK(ja_install_object(arena, object.handle, &how, ids.data(), ids.size()));
  });
  while (!inside) std::this_thread::yield();
  CHECK(!NobodyIsInside(arena));
  std::fflush(stdout);
  pid_t child = fork();
  if (child == 0) _exit(NobodyIsInside(arena) ? 0 : 1);
  int ending = -1;
  CHECK_EQ(waitpid(child, &ending, 0), child);
  CHECK_EQ(ending, 0);
  may_end = true;
  constructs.join();
  CHECK(NobodyIsInside(arena));
  CHECK_OK(ja_free_object(arena, object.handle, ids.data(), ids.size()));
  CHECK_OK(ja_dispose(arena));
}

TEST(types_that_are_compared_by_address_do_not_move) {
  const std::string text =
      "namespace { struct Own { int n; }; } extern \"C\" int f(int n) {"
      "  try { if (n) throw Own{n}; return 0; } catch (Own& own) { return own.n + 1; } }";
  Host host;
  Object object(CompileText(text, "-O2 -fPIC -fvisibility=hidden", "cc", ".cc"));
  CHECK(object.Reasons().find("compared by its address") != std::string::npos);
  ja_install_options promised = ja_install_options_init();
  promised.movable = JA_YES;
  std::vector<ja_executor> ids(object.Info().executors);
  CHECK_STATUS(ja_install_object(host.arena, object.handle, &promised, ids.data(), ids.size()), JA_ERR_MOVABLE);
  CHECK_EQ(Installed(host, object).Int("f", 3), 4);
}

// A null routine would let the unwinder pass handlers over.
TEST(handlers_without_their_routine_are_refused) {
  for (const std::string& compiler : Compilers()) {
    ja_object* none = nullptr;
    Resolve nobody = [](const std::string& name, bool, bool, ja_place* place) {
      place->address = 0;
      return name == "__gxx_personality_v0" ? 1 : 0;
    };
    const std::string text =
        "asm(\".weak __gxx_personality_v0\");"
        "extern \"C\" int f(int n) { try { if (n) throw n; return 0; } catch (int value) { return value + 1; } }";
    CHECK_STATUS(Load(CompileText(text, kPic, compiler, ".cc"), nobody, &none), JA_ERR_SYMBOL);
    CHECK(Says("handles exceptions"));
    CHECK(none == nullptr);
  }
}

TEST(what_a_library_throws_for_a_template_passes) {
  Host host;
  Object thrower(
      CompileText("#include <vector>\n extern \"C\" int pick(const std::vector<int>* v, int n) {"
                  " return v->at(n); }",
                  kPic, "cc", ".cc"));
  Installed in(host, thrower);
  Object catcher(CompileText("#include <vector>\n#include <stdexcept>\n"
                             "extern \"C\" int pick(const std::vector<int>*, int);"
                             "extern \"C\" int f(int n) { std::vector<int> v(3);"
                             "  try { return pick(&v, n); } catch (std::out_of_range&) { return -1; } }",
                             kPic, "cc", ".cc"),
                 [&](const std::string& name, bool, bool, ja_place* place) {
                   if (name != "pick") return 0;
                   *place = in.Place("pick");
                   return 1;
                 });
  Installed x(host, catcher);
  CHECK_EQ(x.Int("f", 2), 0);
  CHECK_EQ(x.Int("f", 3), -1);
}

// A table of handlers names its type by way of a variable, which is nobody else's: unless it is.
TEST(a_pointer_to_a_type_that_code_reads_stays) {
  const std::string text =
      "#include <stdexcept>\n"
      "extern const void* pointer asm(\"DW.ref._ZTISt13runtime_error\") __attribute__((visibility(\"hidden\")));"
      "extern \"C\" int f(int n) { try { if (n) throw std::runtime_error(\"\"); return pointer != 0; }"
      "  catch (std::runtime_error&) { return 5; } }";
  Host host;
  Object object(CompileText(text, "-O2 -fPIC", "cc", ".cc"));
  Installed x(host, object);
  CHECK_EQ(x.Int("f", 0), 1);
  CHECK_EQ(x.Int("f", 1), 5);
}

// The loader's lock may be held by a thread that runs a library's constructor and waits for the arena.
TEST(what_frees_an_object_asks_the_loader_nothing) {
  Host host;
  Object object(CompileText("extern \"C\" int f(int n) { throw n; }", kPic, "cc", ".cc"));
  int before = loader_asked;
  CHECK(before > 0);
  Installed x(host, object);
  x.Free();
  Installed y(host, object);
  CHECK_EQ(loader_asked, before);
}

TEST(an_empty_object_is_no_executor) {
  Host host;
  Object object(CompileText("", kPic));
  CHECK_EQ(object.Info().executors, 0u);
  CHECK_OK(ja_install_object(host.arena, object.handle, nullptr, nullptr, 0));
}

TEST(malformed_objects_do_no_harm) {
  Host host;
  uint32_t random = 20240607;
  auto next = [&](uint32_t below) { return (random = random * 1664525 + 1013904223) % below; };
  auto one = [](const std::string&, bool, bool, ja_place* place) { return place->address = 4096, 1; };
  int loaded = 0, refused = 0;
  for (const char* fixture : {"hash.c", "switch.c", "state.c"}) {
    std::vector<uint8_t> object = CompileFixture(fixture, kSections);
    for (size_t end = 0; end < object.size(); end += 48) {
      ja_object* handle = nullptr;
      CHECK(Load({object.begin(), object.begin() + static_cast<ptrdiff_t>(end)}, one, &handle) != JA_OK);
    }
    for (int i = 0; i < 300; i++) {
      std::vector<uint8_t> bytes = object;
      for (uint32_t changes = 1 + next(4); changes > 0; changes--) {
        size_t tables = std::min<size_t>(bytes.size(), 64 * 24);
        size_t at = next(2) == 0 ? next(static_cast<uint32_t>(bytes.size()))
                                 : bytes.size() - 1 - next(static_cast<uint32_t>(tables));
        bytes[at] = static_cast<uint8_t>(next(256));
      }
      ja_object* handle = nullptr;
      if (Load(bytes, one, &handle) != JA_OK) {
        refused++;
        continue;
      }
      loaded++;
      ja_object_info info = ja_object_info_init();
      CHECK_OK(ja_describe_object(handle, &info));
      std::vector<ja_executor> ids(info.executors);
      if (ja_install_object(host.arena, handle, nullptr, ids.data(), ids.size()) == JA_OK)
        CHECK_OK(ja_free(host.arena, ids.data(), ids.size()));
      CHECK_OK(ja_unload_object(handle));
    }
  }
  CHECK(loaded > 0 && refused > 0);
  CHECK_EQ(CountExecutors(host), 0u);
}

TEST(threads_share_an_object) {
  Host host;
  Object object(CompileFixture("recursion.c", kSections));
  std::vector<std::thread> threads;
  for (int t = 0; t < 4; t++)
    threads.emplace_back([&] {
      ja_thread* thread = nullptr;
      CHECK_OK(ja_attach(host.arena, &thread));
      for (int i = 0; i < 50; i++) {
        std::vector<ja_executor> ids(object.Info().executors);
        CHECK_OK(ja_install_object(host.arena, object.handle, nullptr, ids.data(), ids.size()));
        CHECK_OK(ja_free(host.arena, ids.data(), ids.size()));
      }
      CHECK_OK(ja_detach(thread));
    });
  for (std::thread& thread : threads) thread.join();
}

TEST(what_nobody_should_give_is_refused) {
  Host host;
  std::vector<uint8_t> bytes = CompileText("int away(int); int f(int a) { return away(a); }", kPic);
  ja_object* object = nullptr;
  ja_object_options options = ja_object_options_init();
  options.struct_size--;
  CHECK_STATUS(ja_load_object(bytes.data(), bytes.size(), &options, &object), JA_ERR_ARGUMENT);
  CHECK_STATUS(ja_load_object(bytes.data(), bytes.size(), nullptr, nullptr), JA_ERR_ARGUMENT);
  CHECK_STATUS(ja_load_object(nullptr, 8, nullptr, &object), JA_ERR_ARGUMENT);
  CHECK_STATUS(ja_load_object(nullptr, 0, nullptr, &object), JA_ERR_OBJECT);
  CHECK_STATUS(Load(
                   bytes,
                   [](const std::string&, bool, bool, ja_place* place) {
                     *place = {5, 3, 0, 0};
                     return 1;
                   },
                   &object),
               JA_ERR_ARGUMENT);
  CHECK(Says("'away'"));
  CHECK_OK(Load(
      bytes, [](const std::string&, bool, bool, ja_place* place) { return place->address = 1, 1; }, &object));

  ja_object_info info = ja_object_info_init();
  ja_symbol symbol = ja_symbol_init();
  ja_executor ids[2] = {};
  const char* reason = nullptr;
  info.struct_size = 0;
  CHECK_STATUS(ja_describe_object(object, &info), JA_ERR_ARGUMENT);
  CHECK_STATUS(ja_describe_object(object, nullptr), JA_ERR_ARGUMENT);
  CHECK_STATUS(ja_object_symbol(object, 2, &symbol), JA_ERR_ARGUMENT);
  CHECK_STATUS(ja_object_symbol(object, 0, nullptr), JA_ERR_ARGUMENT);
  CHECK_STATUS(ja_find_symbol(object, nullptr, &symbol), JA_ERR_ARGUMENT);
  CHECK_STATUS(ja_object_reason(object, 0, nullptr, &reason), JA_ERR_ARGUMENT);
  CHECK_STATUS(ja_object_reason(object, 0, nullptr, nullptr), JA_ERR_ARGUMENT);
  CHECK_STATUS(ja_install_object(host.arena, object, nullptr, ids, 2), JA_ERR_ARGUMENT);
  CHECK_STATUS(ja_install_object(host.arena, object, nullptr, ids, 0), JA_ERR_ARGUMENT);
  CHECK_STATUS(ja_install_object(host.arena, object, nullptr, nullptr, 1), JA_ERR_ARGUMENT);
  CHECK_STATUS(ja_install_object(nullptr, object, nullptr, ids, 1), JA_ERR_ARGUMENT);
  CHECK_STATUS(ja_install_object(host.arena, nullptr, nullptr, ids, 1), JA_ERR_ARGUMENT);
  for (int choice : {-2, 2}) {
    ja_install_options install = ja_install_options_init();
    install.movable = choice;
    CHECK_STATUS(ja_install_object(host.arena, object, &install, ids, 1), JA_ERR_ARGUMENT);
    install = ja_install_options_init();
    install.constructors = choice;
    CHECK_STATUS(ja_install_object(host.arena, object, &install, ids, 1), JA_ERR_ARGUMENT);
  }
  CHECK_STATUS(ja_free_object(host.arena, object, ids, 2), JA_ERR_ARGUMENT);
  CHECK_STATUS(ja_free_object(host.arena, nullptr, ids, 1), JA_ERR_ARGUMENT);
  CHECK_STATUS(ja_free_object(host.arena, object, nullptr, 1), JA_ERR_ARGUMENT);
  CHECK_EQ(CountExecutors(host), 0u);

  CHECK_OK(ja_unload_object(object));
  CHECK_STATUS(ja_unload_object(object), JA_ERR_ENDED);
  info = ja_object_info_init();
  CHECK_STATUS(ja_describe_object(object, &info), JA_ERR_ENDED);
  CHECK_STATUS(ja_find_symbol(object, "f", &symbol), JA_ERR_ENDED);
  CHECK_STATUS(ja_install_object(host.arena, object, nullptr, ids, 1), JA_ERR_ENDED);
  CHECK_STATUS(ja_free_object(host.arena, object, ids, 1), JA_ERR_ENDED);
  CHECK_STATUS(ja_unload_object(nullptr), JA_ERR_ARGUMENT);
  int local = 0;
  CHECK_STATUS(ja_unload_object(reinterpret_cast<ja_object*>(&local)), JA_ERR_ARGUMENT);
}
