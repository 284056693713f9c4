#pragma once

#include <string_view>

namespace layerprobe::cli {

/// report_page.html, the page of compare --html, with "<!--DATA-->" where its JSON goes.
extern const std::string_view kReportPage;

}  // namespace layerprobe::cli
