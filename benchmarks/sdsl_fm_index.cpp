// The peer of benchmarks/fm_index.py: sdsl-lite's csa_wt_int, used as the reference code of SEAL
// uses it. Every step searches each hypothesis from its first token again, in a task of its own,
// and asks for the distinct symbols of its rows with three vectors as long as the alphabet.
//
//     g++ -std=c++17 -O3 -DNDEBUG -march=native -shared -fPIC sdsl_fm_index.cpp -o sdsl.so \
//         -ldivsufsort -ldivsufsort64 -lsdsl -lpthread

#include <cstdint>
#include <future>
#include <string>
#include <utility>
#include <vector>

#include <sdsl/suffix_arrays.hpp>

using Index = sdsl::csa_wt_int<>;

// Rows of an n-gram, the text being reversed: lo .. hi, hi exclusive.
static std::pair<uint64_t, uint64_t> rows(const Index& index, const int32_t* tokens, int length) {
    uint64_t low = 0, high = index.size() - 1;
    for (int i = 0; i < length; i++) {
        if (sdsl::backward_search(index, low, high, static_cast<uint64_t>(tokens[i]), low, high) == 0)
            return {0, 0};
    }
    return {low, high + 1};
}

extern "C" {

// Build from a file of uint32 symbols (reversed, all above 0).
void* fm_build(const char* text) {
    auto* index = new Index();
    sdsl::construct(*index, std::string(text), 4);
    return index;
}

void fm_free(void* index) { delete static_cast<Index*>(index); }

uint64_t fm_bytes(void* index) { return sdsl::size_in_bytes(*static_cast<Index*>(index)); }

void fm_count(void* handle, const int32_t* ngrams, int n, int length, int64_t* counts) {
    const auto& index = *static_cast<Index*>(handle);
    for (int i = 0; i < n; i++) {
        auto [low, high] = rows(index, ngrams + i * length, length);
        counts[i] = high - low;
    }
}

// The next tokens of n n-grams with their counts; gives how many there are.
uint64_t fm_next(void* handle, const int32_t* ngrams, int n, int stride, int length) {
    const auto& index = *static_cast<Index*>(handle);
    std::vector<std::future<std::vector<uint64_t>>> tasks;
    for (int i = 0; i < n; i++) {
        const int32_t* ngram = ngrams + i * stride;
        tasks.push_back(std::async([&index, ngram, length] {
            auto [low, high] = rows(index, ngram, length);
            uint64_t found = 0;
            const auto sigma = index.wavelet_tree.sigma;
            std::vector<uint64_t> symbols(sigma), from(sigma), to(sigma), answer;
            sdsl::interval_symbols(index.wavelet_tree, low, high, found, symbols, from, to);
            for (uint64_t j = 0; j < found; j++) {
                answer.push_back(symbols[j]);
                answer.push_back(to[j] - from[j]);
            }
            return answer;
        }));
    }
    uint64_t total = 0;
    for (auto& task : tasks) total += task.get().size() / 2;
    return total;
}

void fm_locate(void* handle, const int64_t* asked, int n, int64_t* positions) {
    const auto& index = *static_cast<Index*>(handle);
    for (int i = 0; i < n; i++) positions[i] = index[asked[i]];
}
}
