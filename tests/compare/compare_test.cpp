#include "compare/compare.h"

#include <doctest/doctest.h>

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <limits>

#include "base/error.h"
#include "tests/compare/sample.h"
#include "tests/store/sample.h"

namespace layerprobe {
namespace {

using compare::Difference;
using compare::Report;
using compare::Rules;

constexpr double kNan = std::numeric_limits<double>::quiet_NaN();
constexpr double kInf = std::numeric_limits<double>::infinity();

Report compared(const test::SampleRun& reference, const test::SampleRun& candidate, const Rules& rules = {}) {
  const test::TempFolder folder;
  const store::Reader r(test::write_file(folder / "reference.h5", reference));
  const store::Reader c(test::write_file(folder / "candidate.h5", candidate));
  return compare::compare_runs(r, c, rules);
}

const Difference& at(const Report& report, const std::string& name) {
  for (const Difference& each : report.differences) {
    if (each.point == name) return each;
  }
  FAIL(name << " was not compared");
  return report.differences.front();
}

/// rel_l2 over those rows of one point, by its definition.
double rel_l2(const test::SampleRun& reference, const test::SampleRun& candidate, const std::string& name) {
  const std::vector<double>& r = reference.values[reference.point(name)];
  const std::vector<double>& c = candidate.values[candidate.point(name)];
  double difference = 0, norm = 0;
  for (std::size_t i = 0; i < r.size(); ++i) {
    difference += (c[i] - r[i]) * (c[i] - r[i]);
    norm += r[i] * r[i];
  }
  return std::sqrt(difference / norm);
}

}  // namespace

TEST_CASE("a run agrees with itself, bit for bit") {
  const test::SampleRun run = test::sample_run();
  const Report report = compared(run, run, {.max_rel_l2 = {}, .exact = true, .points = {}});
  CHECK(report.agrees());
  REQUIRE(report.differences.size() == 6);
  for (const Difference& each : report.differences) {
    CHECK(each.bit_equal);
    CHECK(each.rel_l2 == 0);
    CHECK(each.cosine == 1);
    CHECK_FALSE(each.max_abs_at);
    CHECK_FALSE(each.worst_token);
    CHECK(each.added == 0.0);
    CHECK(each.num_rows == 13);
    CHECK(each.max_abs_reference > 0.9);
  }
  CHECK(report.passing_max_rel_l2() == 0);
  CHECK(compare::verdict(report) == "agree: 6 points, the same bits");
}

TEST_CASE("one element off is found, with its place and both values") {
  const test::SampleRun reference = test::sample_run();
  test::SampleRun candidate = reference;
  candidate.at("model.layers.2", 9, 17) = 3;  // prompt 2, token 3
  const Report report = compared(reference, candidate);
  CHECK_FALSE(report.agrees());
  const Difference& found = *report.first_divergence();
  CHECK(found.point == "model.layers.2");
  CHECK(found.rel_l2 == doctest::Approx(rel_l2(reference, candidate, "model.layers.2")).epsilon(1e-12));
  CHECK(found.max_rel_l2 == 1e-2 * std::sqrt(3.0));  // the third block
  const double was = test::sample_value(3, 2, 3, 17);
  CHECK(found.max_abs == 3 - was);
  REQUIRE(found.max_abs_at);
  CHECK(found.max_abs_at->token.prompt == 2);
  CHECK(found.max_abs_at->token.token == 3);
  CHECK(found.max_abs_at->channel == 17);
  CHECK(found.max_abs_at->reference == was);
  CHECK(found.max_abs_at->candidate == 3);
  REQUIRE(found.worst_token);
  CHECK(found.worst_token->token.prompt == 2);
  CHECK(found.worst_token->token.token == 3);
  CHECK(found.worst_token->rel_l2 > found.rel_l2);
  for (const Difference& each : report.differences) CHECK(each.agrees == (each.point != "model.layers.2"));
  const std::string verdict = compare::verdict(report);
  CAPTURE(verdict);
  CHECK(verdict.starts_with("first divergence: model.layers.2: rel_l2 "));
  CHECK(verdict.find("is over 1.73e-02 (1.00e-02 of bfloat16 x sqrt(3 blocks)), worst token: prompt 2, token 3 (") !=
        std::string::npos);
  CHECK(verdict.find("nearly all of it lies in a few tokens; --max-rel-l2 ") != std::string::npos);
  REQUIRE(report.finding);
  CHECK(report.finding->point == "model.layers.2");
  CHECK(report.finding->kind == compare::Kind::few_tokens);
}

TEST_CASE("the limit that the verdict names passes, and one below does not") {
  const test::SampleRun reference = test::sample_run();
  test::SampleRun candidate = reference;
  candidate.at("model.layers.2", 9, 17) = 3;
  const std::string verdict = compare::verdict(compared(reference, candidate));
  const std::size_t from = verdict.find("--max-rel-l2 ") + 13;
  const double limit = std::stod(verdict.substr(from));
  CHECK(compared(reference, candidate, {.max_rel_l2 = limit, .exact = false, .points = {}}).agrees());
  CHECK_FALSE(compared(reference, candidate, {.max_rel_l2 = limit * 0.99, .exact = false, .points = {}}).agrees());
}

TEST_CASE("a row that belongs to another token is the worst token") {
  const test::SampleRun reference = test::sample_run();
  test::SampleRun candidate = reference;
  for (std::int64_t c = 0; c < 24; ++c) candidate.at("model.layers.1", 7, c) = candidate.at("model.layers.1", 6, c);
  const Report report = compared(reference, candidate);
  REQUIRE(report.first_divergence() != nullptr);
  CHECK(report.first_divergence()->point == "model.layers.1");
  CHECK(report.first_divergence()->worst_token->token.prompt == 2);
  CHECK(report.first_divergence()->worst_token->token.token == 1);
  CHECK(report.first_divergence()->cosine < 0.99);
}

TEST_CASE("error that goes on is added by the layer where it began") {
  const test::SampleRun reference = test::sample_run();
  test::SampleRun candidate = reference;
  candidate.set_dtype(Dtype::f64);
  for (const char* name : {"model.layers.1", "model.layers.2", "model.layers.3", "model.norm"}) {
    for (double& value : candidate.values[candidate.point(name)]) value *= 1.25;
  }
  test::SampleRun f64_reference = reference;
  f64_reference.set_dtype(Dtype::f64);
  const Report report = compared(f64_reference, candidate);
  CHECK(report.first_divergence()->point == "model.layers.1");
  CHECK(at(report, "model.layers.1").rel_l2 == doctest::Approx(0.25).epsilon(1e-14));
  CHECK(at(report, "model.layers.1").cosine == doctest::Approx(1).epsilon(1e-14));
  CHECK(*at(report, "model.embed_tokens").added == 0);
  CHECK(*at(report, "model.layers.0").added == 0);
  CHECK(*at(report, "model.layers.1").added == doctest::Approx(0.25).epsilon(1e-14));
  CHECK(std::fabs(*at(report, "model.layers.2").added) < 1e-15);
  CHECK(std::fabs(*at(report, "model.norm").added) < 1e-15);
}

TEST_CASE("what was fed to a layer comes before what the layer before gave") {
  test::SampleRun reference = test::sample_run();
  reference.layout.points[2].point.name = "model.layers.3:input";  // was layers.1
  test::SampleRun candidate = reference;
  for (double& value : candidate.values[2]) value *= 1.25;  // layers.3:input
  for (double& value : candidate.values[candidate.point("model.layers.3")]) value *= 1.5;
  const Report report = compared(reference, candidate);
  CHECK(*at(report, "model.layers.3").added == doctest::Approx(0.25).epsilon(1e-2));
  CHECK_FALSE(at(report, "model.layers.2").added);  // layers.1 is not there
  CHECK_FALSE(at(report, "model.layers.3:input").added);
}

TEST_CASE("NaN and infinity on one side fail whatever the limit") {
  const test::SampleRun reference = test::sample_run();
  for (const double bad : {kNan, kInf, -kInf}) {
    CAPTURE(bad);
    test::SampleRun candidate = reference;
    candidate.at("model.layers.1", 5, 23) = bad;  // prompt 1, token 0
    const Report report = compared(reference, candidate, {.max_rel_l2 = 1e9, .exact = false, .points = {}});
    REQUIRE_FALSE(report.agrees());
    const Difference& found = *report.first_divergence();
    CHECK(found.point == "model.layers.1");
    CHECK(found.unmatched_non_finite == 1);
    CHECK(found.candidate_non_finite.nan + found.candidate_non_finite.inf == 1);
    CHECK(found.reference_non_finite.nan + found.reference_non_finite.inf == 0);
    CHECK(found.first_unmatched->token.prompt == 1);
    CHECK(found.first_unmatched->token.token == 0);
    CHECK(found.first_unmatched->channel == 23);
    CHECK(found.rel_l2 == 0);  // of all other elements
    CHECK(report.passing_max_rel_l2() == kInf);
    CHECK(compare::verdict(report).find(
              "NaN or infinite on one side only, the first at prompt 1, token 0, channel 23") != std::string::npos);
    CHECK(compare::verdict(report).find("no --max-rel-l2 would pass") != std::string::npos);
    CHECK_FALSE(compared(candidate, reference).agrees());
  }
}

TEST_CASE("NaN and infinity that both sides have are counted and do not fail") {
  test::SampleRun reference = test::sample_run();
  reference.at("model.layers.1", 5, 23) = kNan;
  reference.at("model.layers.1", 6, 0) = kInf;
  test::SampleRun candidate = reference;
  candidate.at("model.layers.1", 6, 1) *= 1.0078125;  // the rows are not the same bits
  CHECK(compared(reference, reference).agrees());
  const Report report = compared(reference, candidate);
  CHECK(report.agrees());
  const Difference found = at(report, "model.layers.1");
  CHECK(found.reference_non_finite.nan == 1);
  CHECK(found.candidate_non_finite.inf == 1);
  CHECK(found.unmatched_non_finite == 0);
  CHECK(found.rel_l2 > 0);
  CHECK(std::isfinite(found.max_abs_reference));
  candidate.at("model.layers.1", 6, 0) = -kInf;
  CHECK(at(compared(reference, candidate), "model.layers.1").unmatched_non_finite == 1);
}

TEST_CASE("where dtypes differ both are rounded to the narrower one before they are judged") {
  const test::SampleRun reference = test::sample_run();
  for (const Dtype wide : {Dtype::f32, Dtype::f64}) {
    CAPTURE(name_of(wide));
    test::SampleRun candidate = reference;
    candidate.set_dtype(wide);
    for (double& value : candidate.values[2]) value *= 1 + 0x1p-11;  // less than half an ulp of bf16
    for (const bool swapped : {false, true}) {
      CAPTURE(swapped);
      const Report report = swapped ? compared(candidate, reference) : compared(reference, candidate);
      const Difference found = at(report, "model.layers.1");
      CHECK(report.agrees());
      CHECK(found.judged_dtype == Dtype::bf16);
      CHECK(found.max_rel_l2 == 1e-2 * std::sqrt(2.0));
      CHECK(found.rel_l2 == 0);
      CHECK(found.raw_rel_l2 == doctest::Approx(0x1p-11).epsilon(1e-3));
      CHECK_FALSE(found.bit_equal);
    }
  }
}

TEST_CASE("the limit is that of the narrower dtype") {
  const std::pair<Dtype, double> limits[] = {
      {Dtype::bf16, 1e-2}, {Dtype::f16, 1e-2}, {Dtype::f32, 1e-5}, {Dtype::f64, 1e-12}};
  for (const auto& [dtype, limit] : limits) {
    CAPTURE(name_of(dtype));
    test::SampleRun reference = test::sample_run(200);
    reference.set_dtype(dtype);
    for (const double factor : {0.5, 2.0}) {
      test::SampleRun candidate = reference;
      candidate.set_dtype(Dtype::f64);
      std::size_t i = 0;
      for (double& value : candidate.values[1]) value *= 1 + (++i % 2 == 0 ? limit : -limit) * factor;
      const Difference found = at(compared(reference, candidate), "model.layers.0");
      CHECK(found.judged_dtype == dtype);
      CHECK(found.max_rel_l2 == limit);
      CHECK(found.rel_l2 == doctest::Approx(limit * factor).epsilon(dtype == Dtype::bf16 ? 0.3 : 0.05));
      CHECK(found.agrees == (factor < 1));
    }
  }
}

TEST_CASE("f32 means of a bf16 run are held to the limit of bf16") {
  test::SampleRun reference = test::sample_run();
  reference.set_dtype(Dtype::f32);
  reference.layout.identity["dtype"] = "bfloat16";
  test::SampleRun candidate = reference;
  for (double& value : candidate.values[2]) value *= 1.005;
  CHECK(at(compared(reference, candidate), "model.layers.1").max_rel_l2 == 1e-2 * std::sqrt(2.0));
  CHECK(compared(reference, candidate).agrees());
  reference.layout.identity["dtype"] = candidate.layout.identity["dtype"] = "float32";
  CHECK_FALSE(compared(reference, candidate).agrees());
}

TEST_CASE("all metrics are those of their formulas") {
  test::SampleRun reference = test::sample_run();
  reference.set_dtype(Dtype::f32);
  test::SampleRun candidate = reference;
  std::vector<double>& values = candidate.values[3];
  for (std::size_t i = 0; i < values.size(); i += 2) values[i] = static_cast<float>(values[i] * 1.001 + 1e-4);
  const Difference found = at(compared(reference, candidate), "model.layers.2");
  double absolute = 0, products = 0, r_squares = 0, c_squares = 0;
  std::vector<double> tokens;
  for (std::size_t row = 0; row < 13; ++row) {
    double difference = 0, norm = 0;
    for (std::size_t i = row * 24; i < (row + 1) * 24; ++i) {
      const double r = reference.values[3][i], c = values[i];
      absolute += std::fabs(c - r);
      products += r * c;
      r_squares += r * r;
      c_squares += c * c;
      difference += (c - r) * (c - r);
      norm += r * r;
    }
    tokens.push_back(std::sqrt(difference / norm));
  }
  std::sort(tokens.begin(), tokens.end());
  CHECK(found.mean_abs == doctest::Approx(absolute / (13 * 24)).epsilon(1e-12));
  CHECK(found.scale == doctest::Approx(products / r_squares).epsilon(1e-12));
  CHECK(found.calc_diff == doctest::Approx(1 - 2 * products / (r_squares + c_squares)).epsilon(1e-6));
  CHECK(found.p50 == doctest::Approx(tokens[6]).epsilon(0.012));
  CHECK(found.p99 == doctest::Approx(tokens.back()).epsilon(1e-12));  // it is the worst token's
  CHECK(found.rel_l2_without_massive == found.rel_l2);
  REQUIRE(found.ulps);
  std::array<std::int64_t, compare::kUlpBuckets> want{};
  for (std::size_t i = 0; i < values.size(); ++i) {
    const auto rank = [](double value) {
      const auto bits = std::bit_cast<std::int32_t>(static_cast<float>(value));
      return static_cast<std::int64_t>(bits < 0 ? -(bits & 0x7fffffff) : bits);
    };
    const std::int64_t apart = std::abs(rank(values[i]) - rank(reference.values[3][i]));
    std::size_t bucket = 0;
    while (bucket + 1 < want.size() && apart > compare::kUlpLimits[bucket]) ++bucket;
    ++want[bucket];
  }
  CHECK(*found.ulps == want);
  CHECK(want[0] == 13 * 12);
}

TEST_CASE("logits are held against each other as distributions over the next token") {
  test::SampleRun reference = test::sample_run(24);
  reference.layout.points.back().point.name = "lm_head";
  reference.set_dtype(Dtype::f64);
  std::vector<double>& r = reference.values.back();
  for (double& value : r) value *= 4;
  test::SampleRun candidate = reference;
  std::vector<double>& c = candidate.values.back();
  for (std::size_t i = 0; i < c.size(); ++i) c[i] += 0.3 * std::sin(static_cast<double>(7 * i));
  constexpr std::size_t kWidth = 24, kRows = 13;
  for (const std::size_t row : {3u, 8u}) {  // the reference's second becomes the first
    double* const values = c.data() + row * kWidth;
    std::vector<std::size_t> order(kWidth);
    for (std::size_t i = 0; i < kWidth; ++i) order[i] = i;
    std::ranges::stable_sort(order, [&](auto a, auto b) { return r[row * kWidth + a] > r[row * kWidth + b]; });
    values[order[1]] = 9;
  }
  c[11 * kWidth] = r[11 * kWidth] = -kInf;  // a token that cannot come, on both sides
  double kl_sum = 0, kl_max = 0, overlap = 0, gap_max = 0;
  std::int64_t same = 0;
  for (std::size_t row = 0; row < kRows; ++row) {
    const auto ranks = [&](const std::vector<double>& values) {
      std::vector<std::size_t> order(kWidth);
      for (std::size_t i = 0; i < kWidth; ++i) order[i] = i;
      std::ranges::stable_sort(order,
                               [&](auto a, auto b) { return values[row * kWidth + a] > values[row * kWidth + b]; });
      return order;
    };
    const auto log_p = [&](const std::vector<double>& values, std::size_t i) {
      double sum = 0;
      for (std::size_t k = 0; k < kWidth; ++k) sum += std::exp(values[row * kWidth + k]);
      return values[row * kWidth + i] - std::log(sum);
    };
    double kl = 0;
    for (std::size_t i = 0; i < kWidth; ++i) {
      if (r[row * kWidth + i] > -kInf) kl += std::exp(log_p(r, i)) * (log_p(r, i) - log_p(c, i));
    }
    kl_sum += kl;
    kl_max = std::max(kl_max, kl);
    const auto of_r = ranks(r), of_c = ranks(c);
    for (std::size_t i = 0; i < 10; ++i) overlap += std::count(of_c.begin(), of_c.begin() + 10, of_r[i]) / 10.0;
    if (of_r[0] == of_c[0]) {
      ++same;
    } else {
      gap_max = std::max(gap_max, r[row * kWidth + of_r[0]] - r[row * kWidth + of_r[1]]);
    }
  }
  REQUIRE(same < 13);
  const Report report = compared(reference, candidate);
  REQUIRE(at(report, "lm_head").logits);
  CHECK_FALSE(at(report, "model.layers.3").logits);
  const compare::LogitsDifference found = *at(report, "lm_head").logits;
  CHECK(found.num_rows == 13);
  CHECK(found.num_left_out == 0);
  CHECK(found.num_same_top1 == same);
  CHECK(found.kl_mean == doctest::Approx(kl_sum / 13).epsilon(1e-12));
  CHECK(found.kl_max == doctest::Approx(kl_max).epsilon(1e-12));
  CHECK(found.kl_p99 == doctest::Approx(kl_max).epsilon(0.02));
  CHECK(found.top_k == 10);
  CHECK(found.top_k_overlap == doctest::Approx(overlap / 13).epsilon(1e-12));
  CHECK(found.gap_max == doctest::Approx(gap_max).epsilon(1e-12));
  REQUIRE(found.gap_max_at);
  CHECK(compare::verdict(report).find(text("; logits: ", same, " of 13 rows have the same most likely token, KL ")) !=
        std::string::npos);

  const compare::LogitsDifference own = *at(compared(reference, reference), "lm_head").logits;
  CHECK(own.kl_max == 0);
  CHECK(own.num_same_top1 == 13);
  CHECK(own.top_k_overlap == 1);
  CHECK_FALSE(own.kl_max_at);

  candidate.at("lm_head", 4, 2) = kNan;   // left out
  candidate.at("lm_head", 5, 3) = -kInf;  // ruled out where the reference does not
  const compare::LogitsDifference damaged = *at(compared(reference, candidate), "lm_head").logits;
  CHECK(damaged.num_rows == 12);
  CHECK(damaged.num_left_out == 1);
  CHECK(damaged.kl_max == kInf);
  CHECK(damaged.kl_max_at->prompt == 1);
}

namespace {

/// Three layers with a router each of 2 of 6 experts, chosen by the largest logits; with a bias by sigmoid and that.
test::SampleRun routed_run(const std::vector<double>& bias = {}) {
  test::SampleRun run = test::sample_run(24);
  run.layout.identity["dtype"] = std::string("bfloat16");
  for (int layer = 2; layer >= 0; --layer) {
    const std::string experts = text("model.layers.", layer, ".mlp");
    const auto at = static_cast<std::ptrdiff_t>(run.point(text("model.layers.", layer)));
    std::vector<double> logits, ids, weights;
    for (std::int64_t row = 0; row < 13; ++row) {
      std::vector<std::pair<double, int>> order;
      for (int expert = 0; expert < 6; ++expert) {
        logits.push_back(test::sample_value(40, row, layer, expert));
        const double logit = logits.back();
        order.push_back(
            {bias.empty() ? -logit : -1 / (1 + std::exp(-logit)) - bias[static_cast<std::size_t>(expert)], expert});
      }
      std::ranges::sort(order);
      for (int i = 0; i < 2; ++i) {
        ids.push_back(order[static_cast<std::size_t>(i)].second);
        weights.push_back(i == 0 ? 0.75 : 0.25);
      }
    }
    const std::vector<store::Layout::Point> points = {
        {.point = {.name = experts + ".gate", .dtype = Dtype::f32, .width = 6}},
        {.point = {.name = experts + ":topk_indices", .dtype = Dtype::i32, .width = 2}},
        {.point = {.name = experts + ":topk_weights", .dtype = Dtype::f32, .width = 2}}};
    run.layout.points.insert(run.layout.points.begin() + at, points.begin(), points.end());
    run.values.insert(run.values.begin() + at, {logits, ids, weights});
  }
  return run;
}

/// The candidate's choice of one token becomes its third-best expert instead of its second, and its values change.
void reroute(test::SampleRun& run, int layer, std::int64_t row, bool logits_say_so) {
  const std::string experts = text("model.layers.", layer, ".mlp");
  std::vector<std::pair<double, int>> order;
  for (int expert = 0; expert < 6; ++expert) order.push_back({-run.at(experts + ".gate", row, expert), expert});
  std::ranges::sort(order);
  run.at(experts + ":topk_indices", row, 1) = order[2].second;
  if (logits_say_so) run.at(experts + ".gate", row, order[2].second) = -order[1].first + 1e-4;
  for (std::int64_t c = 0; c < 24; ++c) run.at(text("model.layers.", layer), row, c) *= -1;
}

}  // namespace

TEST_CASE("tokens that went to other experts are told apart, with the margins of the choice") {
  const test::SampleRun reference = routed_run();
  test::SampleRun candidate = reference;
  std::swap(candidate.at("model.layers.0.mlp:topk_indices", 3, 0),
            candidate.at("model.layers.0.mlp:topk_indices", 3, 1));
  std::swap(candidate.at("model.layers.0.mlp:topk_weights", 3, 0),
            candidate.at("model.layers.0.mlp:topk_weights", 3, 1));
  reroute(candidate, 1, 7, /*logits_say_so=*/true);
  const Rules loose = {
      .max_rel_l2 = {}, .exact = false, .points = {}, .thresholds = {compare::parse_threshold("**.gate: rel_l2 <= 1")}};
  const Report report = compared(reference, candidate, loose);
  CAPTURE(compare::verdict(report));
  CHECK(report.agrees());

  const compare::RoutingDifference& first = *at(report, "model.layers.0.mlp:topk_indices").routing;
  CHECK(first.num_rerouted == 0);  // another order is the same route
  CHECK(first.overlap == 1);
  CHECK(*first.weights_rel_l2 == 0);
  CHECK(first.reference_chooses_largest);
  const compare::RoutingDifference& second = *at(report, "model.layers.1.mlp:topk_indices").routing;
  CHECK(second.num_experts_per_tok == 2);
  CHECK(second.num_experts == 6);
  CHECK(second.num_rows == 13);
  CHECK(second.num_rerouted == 1);
  CHECK(second.overlap == doctest::Approx(25.0 / 26));
  CHECK(second.num_unexplained == 0);
  std::vector<double> logits;
  for (int expert = 0; expert < 6; ++expert) {
    logits.push_back(test::SampleRun(reference).at("model.layers.1.mlp.gate", 7, expert));
  }
  std::ranges::sort(logits, std::greater<>());
  CHECK(second.margin_max ==
        doctest::Approx(static_cast<float>(logits[1]) - static_cast<float>(logits[2])).epsilon(1e-6));
  CHECK(second.margin_max_at->prompt == 2);
  CHECK(second.margin_max_at->token == 1);

  const Difference& before = at(report, "model.layers.0");
  REQUIRE(before.by_route);
  CHECK(before.by_route->num_same == 13);
  const Difference& behind = at(report, "model.layers.1");
  CHECK(behind.by_route->num_same == 12);
  CHECK(behind.by_route->num_rerouted == 1);
  CHECK(behind.by_route->same_rel_l2 == 0);
  CHECK(behind.by_route->rerouted_rel_l2 == doctest::Approx(2));
  CHECK(behind.rel_l2 > 0.1);
  CHECK(behind.judges_same_route);
  CHECK(behind.rel_l2_without_massive == 0);
  CHECK(behind.rule.ends_with("of the 12 tokens with the same experts"));
  CHECK(compare::verdict(report).find(
            "other experts for at most 7.69 % of the tokens (model.layers.1.mlp:topk_indices)") != std::string::npos);
}

TEST_CASE("thresholds know the routers' figures") {
  const test::SampleRun reference = routed_run();
  test::SampleRun candidate = reference;
  reroute(candidate, 1, 7, /*logits_say_so=*/false);
  const auto first = [&](const char* threshold) {
    Rules rules;
    rules.thresholds = {compare::parse_threshold(threshold), compare::parse_threshold("**: raw_rel_l2 <= 9")};
    const Report report = compared(reference, candidate, rules);
    return report.agrees() ? std::string("-") : report.first_divergence()->point;
  };
  CHECK(first("**:topk_indices: overlap >= 0.96 and rerouted <= 0.08") == "-");
  CHECK(first("**:topk_indices: overlap >= 0.97") == "model.layers.1.mlp:topk_indices");
  CHECK(first("**:topk_indices: rerouted <= 0.07") == "model.layers.1.mlp:topk_indices");
  CHECK(first("model.layers.*: rel_l2_same_route <= 0") == "-");
  CHECK(first("model.layers.*: rel_l2 <= 0") == "model.layers.1");
}

TEST_CASE("a choice that the candidate's own router logits do not explain is a divergence") {
  const test::SampleRun reference = routed_run();
  test::SampleRun candidate = reference;
  reroute(candidate, 1, 7, /*logits_say_so=*/false);
  const Report report = compared(reference, candidate);
  REQUIRE_FALSE(report.agrees());
  CHECK(report.first_divergence()->point == "model.layers.1.mlp:topk_indices");
  CHECK(report.first_divergence()->routing->num_unexplained == 1);
  CHECK(report.finding->kind == compare::Kind::routing);
  CHECK(compare::verdict(report).starts_with(
      "first divergence: model.layers.1.mlp:topk_indices: 1 of 13 tokens went to other experts (96.2 % of the choices "
      "are the same), 1 against the candidate's own router logits, the first at prompt 2, token 1"));
  CHECK_FALSE(at(report, "model.layers.1").agrees);  // what an unexplained choice did is not put aside
  // a number that is no expert's
  test::SampleRun damaged = reference;
  damaged.at("model.layers.1.mlp:topk_indices", 7, 1) = 2000000000;
  CHECK(compared(reference, damaged).first_divergence()->routing->num_unexplained == 1);
}

TEST_CASE("a router's bias, which the files do not hold, comes from the model") {
  const std::vector<double> bias = {0.3, -0.2, 0.1, 0, -0.3, 0.25};
  const test::SampleRun reference = routed_run(bias);
  const Report same = compared(reference, reference);
  CHECK(same.agrees());
  CHECK_FALSE(at(same, "model.layers.1.mlp:topk_indices").routing->reference_chooses_largest);
  CHECK_FALSE(at(same, "model.layers.1.mlp:topk_indices").routing->knows_margins);

  Rules rules;
  rules.selection_bias = [&](int layer) { return layer == 1 ? bias : std::vector<double>(); };
  test::SampleRun candidate = routed_run();  // its bias is left out
  const auto routing_at = [&](int layer, const Report& report) {
    return *at(report, text("model.layers.", layer, ".mlp:topk_indices")).routing;
  };
  const Report report = compared(reference, candidate, rules);
  CHECK_FALSE(report.agrees());
  CHECK(routing_at(1, report).knows_margins);
  CHECK(routing_at(1, report).uses_bias);
  CHECK(routing_at(1, report).num_rerouted > 0);
  CHECK(routing_at(1, report).num_unexplained == routing_at(1, report).num_rerouted);
  CHECK(routing_at(1, report).margin_max > 0);
  CHECK_FALSE(routing_at(0, report).knows_margins);
  CHECK(routing_at(0, report).candidate_chooses_largest);
  REQUIRE(report.finding);
  CHECK(report.finding->kind == compare::Kind::routing);
  CHECK(report.finding->words.find("a selection bias, or the choice of groups, is left out") != std::string::npos);

  // Logits that another choice follows from, with the same bias.
  candidate = reference;
  double& chosen = candidate.at("model.layers.1.mlp:topk_indices", 7, 1);
  const double left = candidate.at("model.layers.1.mlp:topk_indices", 7, 0);
  for (int expert = 0; expert < 6; ++expert) {
    if (expert == chosen || expert == left) continue;
    candidate.at("model.layers.1.mlp.gate", 7, expert) = 6;  // sigmoid is nearly 1
    chosen = expert;
    break;
  }
  candidate.at("model.layers.1.mlp.gate", 7, static_cast<int>(left)) = 9;
  CHECK(routing_at(1, compared(reference, candidate, rules)).num_unexplained == 0);
  CHECK(routing_at(1, compared(reference, candidate, rules)).num_rerouted == 1);
}

TEST_CASE("without router logits other experts are held to a share, and with a baseline to its own") {
  test::SampleRun reference = routed_run();
  for (int layer = 0; layer < 3; ++layer) reference.remove(text("model.layers.", layer, ".mlp.gate"));
  const auto rerouted = [&](int tokens) {
    test::SampleRun run = routed_run();
    for (int i = 0; i < tokens; ++i) reroute(run, 1, i, true);
    for (int layer = 0; layer < 3; ++layer) run.remove(text("model.layers.", layer, ".mlp.gate"));
    return run;
  };
  const char* const router = "model.layers.1.mlp:topk_indices";
  CHECK(at(compared(reference, rerouted(3)), router).agrees);  // 3 of 26 choices, of 0.1 x sqrt(2)
  CHECK_FALSE(at(compared(reference, rerouted(4)), router).agrees);
  CHECK_FALSE(at(compared(reference, rerouted(3)), router).routing->knows_margins);
  reference.layout.identity["dtype"] = std::string("float32");
  test::SampleRun exact = rerouted(3);
  exact.layout.identity["dtype"] = std::string("float32");
  CHECK_FALSE(at(compared(reference, exact), router).agrees);  // float32 has no such noise

  const test::TempFolder folder;
  const store::Reader r(test::write_file(folder / "r.h5", reference));
  const store::Reader baseline(test::write_file(folder / "b.h5", rerouted(4)));
  for (const int tokens : {4, 6, 7}) {
    const store::Reader c(test::write_file(folder / "c.h5", rerouted(tokens)));
    CHECK(at(compare::compare_runs(r, c, {}, {}, &baseline), router).agrees == (tokens <= 6));
  }
}

TEST_CASE("thresholds know the logits' figures") {
  test::SampleRun reference = test::sample_run(24);
  reference.layout.points.back().point.name = "lm_head";
  test::SampleRun candidate = reference;
  for (double& value : candidate.values.back()) value *= 2;
  const auto agrees = [&](const char* threshold) {
    Rules rules;
    rules.thresholds = {compare::parse_threshold(threshold)};
    return compared(reference, candidate, rules).agrees();
  };
  CHECK(agrees("lm_head: top1_agreement >= 1 and top_k_overlap >= 1"));
  CHECK(agrees("lm_head: kl_mean <= 1 and kl_p99 <= 1 and kl_max <= 1"));
  CHECK_FALSE(agrees("lm_head: kl_mean <= 1e-3"));
  CHECK_FALSE(agrees("lm_head: kl_max <= 1e-3"));
}

TEST_CASE("an error that massive channels and sinks hide is seen without them") {
  test::SampleRun reference = test::sample_run();
  reference.set_dtype(Dtype::f32);
  for (std::int64_t row = 0; row < 13; ++row) reference.at("model.layers.1", row, 9) = 4096;
  for (std::int64_t c = 0; c < 24; ++c) reference.at("model.layers.1", 5, c) = 65536;  // prompt 1: one token
  test::SampleRun candidate = reference;
  for (std::int64_t row = 6; row < 13; ++row) {
    for (std::int64_t c = 10; c < 20; ++c) candidate.at("model.layers.1", row, c) *= 1.001;
  }
  const Report report = compared(reference, candidate);
  const Difference found = at(report, "model.layers.1");
  CHECK(found.massive_channels == std::vector<std::int64_t>{9});
  CHECK(found.num_sink_rows == 1);
  CHECK(found.rel_l2 < 1e-6);
  CHECK(found.rel_l2_without_massive > 1e-4);
  CHECK_FALSE(found.agrees);
  CHECK(compare::verdict(report).find("without 1 massive channels and 1 attention sinks, over 1.41e-05") !=
        std::string::npos);
}

TEST_CASE("a threshold decides for the points that its pattern names, the first that matches") {
  const test::SampleRun reference = test::sample_run();
  test::SampleRun candidate = reference;
  candidate.at("model.layers.2", 9, 17) = 3;
  const auto agrees = [&](const std::vector<std::string>& texts) {
    Rules rules;
    for (const std::string& each : texts) rules.thresholds.push_back(compare::parse_threshold(each));
    return compared(reference, candidate, rules).agrees();
  };
  CHECK_FALSE(agrees({}));
  CHECK(agrees({"model.layers.2: rel_l2 <= 0.9"}));
  CHECK_FALSE(agrees({"model.layers.*: max_abs <= 1"}));
  CHECK(agrees({"model.layers.*: max_abs <= 1 or rel_l2 <= 0.9"}));
  CHECK_FALSE(agrees({"model.layers.*: max_abs <= 1 and rel_l2 <= 0.9"}));
  CHECK(agrees({"model.layers.*: max_abs <= 1 and rel_l2 <= 0.9 or cosine >= 0.5"}));
  CHECK(agrees({"model.layers.2: p50<=0", "**: rel_l2 <= 1e-9"}));
  CHECK_FALSE(agrees({"**: rel_l2 <= 1e-9", "model.layers.2: p50 <= 0"}));
  CHECK_FALSE(agrees({"**: ratio <= 9"}));  // without a baseline there is none
  for (const char* wrong : {"", "x", "x:", "x: ", ": rel_l2 <= 1", "x: rel_l2", "x: rel_l2 <= y", "x: rel_l2 < 1",
                            "x: what <= 1", "x: rel_l2 <= 1 or", "x: rel_l2 <= 1 but p50 <= 1", "x: rel_l2 <= inf"}) {
    CAPTURE(wrong);
    CHECK_THROWS_AS(compare::parse_threshold(wrong), Error);
  }
}

TEST_CASE("with a baseline a point may be off 1.5 times as far") {
  const test::TempFolder folder;
  const test::SampleRun reference = test::sample_run();
  const auto off_by = [&](double share, const char* name) {
    test::SampleRun run = reference;
    run.set_dtype(Dtype::f32);
    std::size_t i = 0;
    for (const char* each : {"model.layers.1", "model.layers.2"}) {
      const bool is_it = std::string(name) == each;
      for (double& value : run.values[run.point(each)]) value *= 1 + (++i % 2 == 0 ? 1 : -1) * (is_it ? share : 0.02);
    }
    return run;
  };
  test::SampleRun f32_reference = reference;
  f32_reference.set_dtype(Dtype::f32);
  const store::Reader r(test::write_file(folder / "r.h5", f32_reference));
  const store::Reader b(test::write_file(folder / "b.h5", off_by(0.02, "model.layers.2")));
  for (const auto& [share, agrees] : {std::pair(0.029, true), {0.031, false}}) {
    const store::Reader c(test::write_file(folder / "c.h5", off_by(share, "model.layers.2")));
    const Report report = compare::compare_runs(r, c, {}, {}, &b);
    CHECK(report.agrees() == agrees);
    CHECK(*at(report, "model.layers.2").baseline_rel_l2 == doctest::Approx(0.02).epsilon(1e-4));
    CHECK(*at(report, "model.layers.2").ratio == doctest::Approx(share / 0.02).epsilon(1e-4));
    CHECK(*at(report, "model.layers.0").ratio == 0);
    CHECK(at(report, "model.layers.2").rule == "1.5 x the baseline's 2.00e-02");
  }
}

TEST_CASE("prompts in another order, or a part of them, are paired by their tokens") {
  const test::SampleRun all = test::sample_run();
  test::SampleRun turned = test::only_rows(all, {});  // prompts 2, 0, 1
  turned.layout.prompts = {.input_ids = {}, .cu_seqlens = {0, 7, 12, 13}, .texts = {}};
  turned.layout.rows = {.cu_rows = {0, 7, 12, 13}, .position = {0, 1, 2, 3, 4, 5, 6, 0, 1, 2, 3, 4, 0}};
  test::SampleRun last = test::only_rows(all, {});  // prompt 2 alone
  last.layout.prompts = {.input_ids = {}, .cu_seqlens = {0, 7}, .texts = {}};
  last.layout.rows = {.cu_rows = {0, 7}, .position = {0, 1, 2, 3, 4, 5, 6}};
  for (std::int32_t row : {6, 7, 8, 9, 10, 11, 12, 0, 1, 2, 3, 4, 5}) {
    for (test::SampleRun* run : {&turned, &last}) {
      if (run == &last && row < 6) continue;
      run->layout.prompts.input_ids.push_back(100 + row);
      for (std::size_t point = 0; point < all.values.size(); ++point) {
        for (std::int64_t c = 0; c < 24; ++c) {
          run->values[point].push_back(all.values[point][static_cast<std::size_t>(row * 24 + c)]);
        }
      }
    }
  }
  struct Case {
    const test::SampleRun *reference, *candidate;
    const char* order;
    std::int64_t rows;
  };
  for (const auto& [reference, candidate, order, rows] :
       {Case{&all, &turned, "another order of prompts", 13}, Case{&turned, &all, "another order of prompts", 13},
        Case{&all, &last, "a part of the other file's prompts", 7},
        Case{&last, &all, "a part of the other file's prompts", 7}}) {
    const Report report = compared(*reference, *candidate);
    CHECK(report.agrees());
    CHECK(report.prompt_order == order);
    CHECK(report.num_rows == rows);
    for (const Difference& each : report.differences) CHECK(each.bit_equal);
    CHECK(compare::verdict(report).find(order) != std::string::npos);
  }
  test::SampleRun wrong = turned;
  wrong.at("model.layers.3", 0, 2) = 5;  // prompt 2 of the reference
  CHECK(compared(all, wrong).first_divergence()->worst_token->token.prompt == 2);
}

TEST_CASE("integers agree when they are equal") {
  test::SampleRun reference = test::sample_run();
  reference.layout.points[2].point = {.name = "model.layers.1.mlp:topk_indices", .dtype = Dtype::i32, .width = 24};
  for (double& value : reference.values[2]) value = std::round(value * 100);
  test::SampleRun candidate = reference;
  CHECK(compared(reference, candidate).agrees());
  candidate.values[2][30] += 1;
  const Report report = compared(reference, candidate, {.max_rel_l2 = 1e9, .exact = false, .points = {}});
  CHECK_FALSE(report.agrees());
  CHECK(report.passing_max_rel_l2() == kInf);
}

TEST_CASE("--exact fails on one bit and on another dtype") {
  const test::SampleRun reference = test::sample_run();
  test::SampleRun candidate = reference;
  candidate.at("model.layers.0", 0, 0) = 0;
  test::SampleRun minus = candidate;
  minus.at("model.layers.0", 0, 0) = -0.0;
  const Rules exact = {.max_rel_l2 = {}, .exact = true, .points = {}};
  CHECK(compared(candidate, minus).agrees());
  const Report report = compared(candidate, minus, exact);
  CHECK(report.first_divergence()->point == "model.layers.0");
  CHECK(compare::verdict(report).ends_with("not the same bits; without --exact it agrees"));
  test::SampleRun wide = reference;
  wide.set_dtype(Dtype::f32);
  CHECK_FALSE(compared(reference, wide, exact).agrees());
}

TEST_CASE("a row of zeros that stays zeros is no error, and one that does not is infinite") {
  test::SampleRun reference = test::sample_run();
  for (std::int64_t c = 0; c < 24; ++c) reference.at("model.layers.0", 3, c) = 0;
  CHECK(compared(reference, reference).agrees());
  test::SampleRun candidate = reference;
  candidate.at("model.layers.0", 3, 4) = 0x1p-20;
  const Difference found = at(compared(reference, candidate), "model.layers.0");
  CHECK(found.agrees);
  CHECK(found.worst_token->rel_l2 == kInf);
  for (double& value : reference.values[1]) value = 0;
  CHECK(at(compared(reference, candidate), "model.layers.0").rel_l2 == kInf);
  CHECK_FALSE(compared(reference, candidate).agrees());
}

TEST_CASE("rows are paired by token where the files kept others") {
  const test::SampleRun all = test::sample_run();
  const test::SampleRun some = test::only_rows(all, {1, 3, 4, 6, 8, 12});
  const test::SampleRun last = test::only_rows(all, {4, 5, 12});
  for (const auto& [reference, candidate, rows] :
       {std::tuple(&all, &some, 6), {&some, &all, 6}, {&some, &last, 2}, {&last, &all, 3}}) {
    const Report report = compared(*reference, *candidate);
    CHECK(report.agrees());
    CHECK(report.num_rows == rows);
    for (const Difference& each : report.differences) CHECK(each.num_rows == rows);
  }
  test::SampleRun wrong = some;
  wrong.at("model.layers.3", 4, 2) = 5;  // prompt 2, token 2
  const Report report = compared(all, wrong);
  CHECK(report.first_divergence()->point == "model.layers.3");
  CHECK(report.first_divergence()->worst_token->token.prompt == 2);
  CHECK(report.first_divergence()->worst_token->token.token == 2);
}

TEST_CASE("means are paired with means") {
  test::SampleRun mean = test::only_rows(test::sample_run(), {0, 5, 6});
  mean.layout.rows.position = {-1, -1, -1};
  mean.set_dtype(Dtype::f32);
  test::SampleRun wrong = mean;
  wrong.at("model.norm", 1, 0) = 9;
  const Report report = compared(mean, wrong);
  CHECK(report.first_divergence()->worst_token->token.prompt == 1);
  CHECK(report.first_divergence()->worst_token->token.token == -1);
  CHECK(compare::verdict(report).find("worst token: the mean of prompt 1") != std::string::npos);
  CHECK_THROWS_WITH_AS(compared(test::sample_run(), mean),
                       doctest::Contains("none of its 3 rows is a token that is among the 13 rows of the reference"),
                       Error);
}

TEST_CASE("points of one file are listed and the others compared") {
  const test::SampleRun reference = test::sample_run();
  test::SampleRun candidate = reference;
  candidate.remove("model.layers.2");
  candidate.layout.points[0].point.name = "model.other";
  candidate.layout.points[2].stored = false;  // layers.1
  const Report report = compared(reference, candidate);
  CHECK(report.agrees());
  REQUIRE(report.not_compared.size() == 4);
  CHECK(report.not_compared[0].point == "model.embed_tokens");
  CHECK(report.not_compared[0].reason == "only in the reference");
  CHECK(report.not_compared[1].reason == "the candidate has only its statistics");
  CHECK(report.not_compared[2].point == "model.layers.2");
  CHECK(report.not_compared[3].point == "model.other");
  CHECK(report.not_compared[3].reason == "only in the candidate");
  CHECK(report.differences.size() == 3);
  CHECK_FALSE(at(report, "model.layers.3").added);  // what entered it was not compared
  CHECK(compare::verdict(report) == "agree: 3 points, the same bits; 4 points not compared");
}

TEST_CASE("model.language_model is model") {
  const test::SampleRun reference = test::sample_run();
  test::SampleRun candidate = reference;
  for (store::Layout::Point& each : candidate.layout.points) {
    each.point.name = "model.language_model." + each.point.name.substr(6);
  }
  CHECK(compared(reference, candidate).differences.size() == 6);
  const Report report =
      compared(candidate, reference, {.max_rel_l2 = {}, .exact = false, .points = {"model.layers.*"}});
  CHECK(report.differences.size() == 4);
  CHECK(report.differences[0].point == "model.language_model.layers.0");
  CHECK(report.differences[1].added);
}

TEST_CASE("another width or kind of value is a difference") {
  const test::SampleRun reference = test::sample_run();
  test::SampleRun candidate = reference;
  candidate.layout.points[5].point.width = 8;
  candidate.values[5].resize(13 * 8);
  const Report report = compared(reference, candidate);
  CHECK_FALSE(report.agrees());
  CHECK(compare::verdict(report) == "first divergence: model.norm: width is 8 where the reference has 24");
  candidate = reference;
  candidate.layout.points[5].point.dtype = Dtype::i32;
  CHECK(compare::verdict(compared(reference, candidate)) ==
        "first divergence: model.norm: dtype is int32 where the reference has bfloat16");
}

TEST_CASE("other token ids are refused, with the place") {
  const test::SampleRun reference = test::sample_run();
  test::SampleRun candidate = reference;
  candidate.layout.prompts.input_ids[8] = 77;
  CHECK_THROWS_WITH_AS(
      compared(reference, candidate),
      doctest::Contains("candidate.h5: prompt 2 has token id 77 at position 2 where the reference has 108"), Error);
  candidate = test::only_rows(reference, {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11});
  candidate.layout.prompts.cu_seqlens = {0, 5, 6, 12};
  candidate.layout.prompts.input_ids.pop_back();
  CHECK_THROWS_WITH_AS(compared(reference, candidate),
                       doctest::Contains("prompt 2 has 6 tokens where the reference has 7"), Error);
  candidate = reference;
  candidate.layout.prompts.input_ids.clear();
  CHECK_THROWS_WITH_AS(compared(reference, candidate),
                       doctest::Contains("prompt 0 is hidden states where the reference's is token ids"), Error);
}

TEST_CASE("the prompts that both have are compared") {
  const test::SampleRun reference = test::sample_run();
  test::SampleRun candidate = test::only_rows(reference, {0, 1, 2, 3, 4, 5});
  candidate.layout.prompts.cu_seqlens = {0, 5, 6};
  candidate.layout.prompts.input_ids.resize(6);
  candidate.layout.rows.cu_rows.resize(3);
  const Report report = compared(reference, candidate);
  CHECK(report.agrees());
  CHECK(report.num_prompts == 2);
  CHECK(report.reference.num_prompts == 3);
  CHECK(report.num_rows == 6);
}

TEST_CASE("incomplete prompts of a partial file are left out and counted") {
  const test::SampleRun reference = test::sample_run();
  test::SampleRun candidate = reference;
  candidate.at("model.layers.1", 6, 0) = 50;  // prompt 2, not complete there
  candidate.incomplete = {{2, 2}, {3, 0}, {3, 1}, {3, 2}};
  const Report report = compared(reference, candidate);
  CHECK(report.agrees());
  CHECK_FALSE(report.candidate.is_finished);
  CHECK(at(report, "model.layers.0").num_incomplete_prompts == 0);
  CHECK(at(report, "model.layers.1").num_incomplete_prompts == 1);
  CHECK(at(report, "model.layers.1").num_prompts == 2);
  CHECK(at(report, "model.layers.1").num_rows == 6);
  REQUIRE(report.not_compared.size() == 1);
  CHECK(report.not_compared[0].point == "model.layers.2");
  CHECK(report.not_compared[0].reason == "no prompt is complete in both files");
}

TEST_CASE("a file with nothing in common is refused") {
  const test::SampleRun reference = test::sample_run();
  test::SampleRun candidate = reference;
  for (store::Layout::Point& each : candidate.layout.points) each.point.name = "x." + each.point.name;
  CHECK_THROWS_WITH_AS(compared(reference, candidate), doctest::Contains("no point has the same name"), Error);
  candidate = reference;
  for (std::size_t point = 0; point < 6; ++point) {
    for (std::int64_t prompt = 0; prompt < 3; ++prompt) candidate.incomplete.insert({point, prompt});
  }
  CHECK_THROWS_WITH_AS(compared(reference, candidate), doctest::Contains("no prompt is complete in both files"), Error);
}

TEST_CASE("a pattern that no point matches is refused with the nearest names") {
  const test::SampleRun run = test::sample_run();
  CHECK_THROWS_WITH_AS(compared(run, run, {.max_rel_l2 = {}, .exact = false, .points = {"model.layer.1"}}),
                       doctest::Contains("did you mean model.layers.1"), Error);
}

TEST_CASE("a file whose bytes are cut off is refused while it is read") {
  const test::TempFolder folder;
  const test::SampleRun run = test::sample_run(5000);
  const store::Reader reference(test::write_file(folder / "a.h5", run));
  const auto path = test::write_file(folder / "b.h5", run);
  const store::Reader candidate(path);
  std::filesystem::resize_file(path, 100'000);
  CHECK_THROWS_AS(compare::compare_runs(reference, candidate, {}), Error);
}

}  // namespace layerprobe
