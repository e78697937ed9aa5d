// What fuzz targets run in where there is no libFuzzer: every file of a corpus, then so many inputs that are
// made from them, the same ones each time.
//
//   NAME [--runs=N] [--seed=S] [FILE|DIRECTORY]...
//
// An input that ends the program is left in the working directory.  Memory is bounded: what allocates as much as
// a broken file says ends it, too.
#include <sys/resource.h>

#include <algorithm>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <string>
#include <vector>

#include "base/random.hpp"
#include "tests/fuzz/fuzz.hpp"

using tidemark::Prng;

namespace {

using Data = std::vector<std::uint8_t>;
namespace files = std::filesystem;

constexpr std::size_t input_max = 128 << 10;
constexpr rlim_t memory_max = rlim_t{2} << 30;
constexpr unsigned seconds_max = 20;               // of one input

Prng random_source(1);
Data under_way;
std::string program;

void keep_input(int signal) {
  const std::string name = program + "-crash";
  std::ofstream(name, std::ios::binary)
      .write(reinterpret_cast<const char*>(under_way.data()), static_cast<std::streamsize>(under_way.size()));
  std::fprintf(stderr, "%s: %s; to see it again: %s %s\n", program.c_str(), signal == SIGALRM ? "it does not end" : "it crashed",
               program.c_str(), name.c_str());
  std::_Exit(1);
}

void run(const Data& input) {
  under_way = input;
  alarm(seconds_max);
  (void)LLVMFuzzerTestOneInput(input.data(), input.size());
  alarm(0);
}

void collect(const files::path& path, std::vector<files::path>& found) {
  if (!files::is_directory(path)) return found.push_back(path);
  for (const auto& entry : files::directory_iterator(path))
    if (entry.is_regular_file()) found.push_back(entry.path());
}

Data read(const files::path& path) {
  std::ifstream file(path, std::ios::binary);
  return Data(std::istreambuf_iterator<char>(file), {});
}

void mutate(Data& input) {
  const std::size_t size = input.size();
  input.resize(input_max);
  input.resize(LLVMFuzzerCustomMutator ? LLVMFuzzerCustomMutator(input.data(), size, input_max, static_cast<unsigned>(random_source()))
                                       : LLVMFuzzerMutate(input.data(), size, input_max));
}

}  // namespace

// A byte, a word, a piece: changed, doubled, left out.
extern "C" std::size_t LLVMFuzzerMutate(std::uint8_t* data, std::size_t size, std::size_t max) {
  const auto below = [](std::size_t n) { return static_cast<std::size_t>(random_source.below(n)); };
  if (size == 0) {
    data[0] = static_cast<std::uint8_t>(random_source());
    return 1;
  }
  const std::size_t at = below(size), length = std::min(size - at, std::size_t{1} << below(8));
  switch (below(6)) {
    case 0: data[at] = static_cast<std::uint8_t>(random_source()); return size;
    case 1: data[at] ^= static_cast<std::uint8_t>(1u << below(8)); return size;
    case 2: std::fill_n(data + at, length, static_cast<std::uint8_t>(random_source.chance(1, 2) ? 0 : 255)); return size;
    case 3: std::copy_n(data + below(size - length + 1), length, data + at); return size;
    case 4:
      std::copy(data + at + length, data + size, data + at);
      return size - length;
    default:
      if (size + length > max) return size;
      std::copy_backward(data + at, data + size, data + size + length);
      return size + length;
  }
}

int main(int argc, char** argv) {
  program = argv[0];
  std::uint64_t runs = 0, seed = 1;
  std::vector<files::path> corpus;
  for (int i = 1; i < argc; ++i) {
    const std::string word = argv[i];
    if (word.starts_with("--runs=")) runs = std::stoull(word.substr(7));
    else if (word.starts_with("--seed=")) seed = std::stoull(word.substr(7));
    else collect(word, corpus);
  }
  std::sort(corpus.begin(), corpus.end());
  const rlimit memory{memory_max, memory_max};
  if (TIDEMARK_FUZZ_BOUNDED) setrlimit(RLIMIT_AS, &memory);
  for (const int signal : {SIGABRT, SIGSEGV, SIGBUS, SIGFPE, SIGALRM}) std::signal(signal, keep_input);
  std::vector<Data> inputs;
  for (const auto& path : corpus) inputs.push_back(read(path));
  for (const Data& input : inputs) run(input);
  if (inputs.empty()) inputs.emplace_back();
  random_source = Prng(seed);
  for (std::uint64_t i = 0; i < runs; ++i) {
    Data input = inputs[random_source.below(inputs.size())];
    for (std::uint64_t changes = 1 + random_source.below(4); changes != 0; --changes) mutate(input);
    run(input);
  }
  std::printf("%zu files, %llu inputs made of them\n", corpus.size(), static_cast<unsigned long long>(runs));
  return 0;
}
