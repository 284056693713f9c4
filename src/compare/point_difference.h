#pragma once

#include <cstdint>
#include <functional>
#include <span>

#include "compare/align.h"
#include "compare/difference.h"
#include "compare/heatmap.h"
#include "store/reader.h"

namespace layerprobe::compare {

/// Both values of a point over the rows they share: all of Difference but `added` and what it is judged by. Each row's
/// error goes to the heatmap, if there is one, under its place among the shared rows. The point has one width in both
/// files, and is integers in both or in neither. `rerouted` says by the reference's row which tokens went to
/// other experts; empty where no router is before. All cores; `rows_done` is called by one thread at a time with the
/// number of rows since its last call.
Difference difference_of(const store::Reader& reference, std::size_t reference_point, const store::Reader& candidate,
                         std::size_t candidate_point, const Alignment::Shared& shared,
                         const std::function<void(std::int64_t)>& rows_done, Heatmap* heatmap = nullptr,
                         std::span<const std::uint8_t> rerouted = {});

}  // namespace layerprobe::compare
