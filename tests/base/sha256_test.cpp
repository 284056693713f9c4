#include "base/sha256.h"

#include <doctest/doctest.h>

namespace layerprobe {
namespace {

std::string sha256(std::string_view bytes) {
  Sha256 sha;
  sha.add(bytes);
  return sha.hex();
}

}  // namespace

TEST_CASE("SHA-256 gives the digests of NIST's examples") {  // FIPS 180-4's example files
  CHECK(sha256("") == "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
  CHECK(sha256("abc") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
  CHECK(sha256("abcdbcdecdefdefgefghfghighijhijkijkljklmklmnlmnomnopnopq") ==
        "248d6a61d20638b8e5c026930c3e6039a33ce45964ff2167f6ecedd419db06c1");
  CHECK(sha256(std::string(1'000'000, 'a')) == "cdc76e5c9914fb9281a1c7e284d73e67f1809a48a497200e046d39ccc7112cd0");
}

TEST_CASE("SHA-256 does not depend on how the bytes are cut") {
  const std::string bytes(200, 'q');
  for (std::size_t piece = 1; piece <= bytes.size(); ++piece) {
    CAPTURE(piece);
    Sha256 sha;
    for (std::size_t i = 0; i < bytes.size(); i += piece) sha.add(std::string_view(bytes).substr(i, piece));
    CHECK(sha.hex() == sha256(bytes));
  }
}

}  // namespace layerprobe
