#pragma once

// clang-format off
/// A captured run on disk, version 1: a specification, enough to write the file from another language.
///
/// The file is HDF5, written with the library's bounds (V18, V110), of h5py libver=("v108", "v110"): superblock 2, every
/// piece of metadata with a checksum. Everything is little-endian. No type of variable length anywhere, no link but hard
/// ones, no filter: every dataset is contiguous with its space allocated, so that its bytes are those at
/// H5Dget_offset(), row-major, and can be read without HDF5. A reader refuses anything else before it reads it. Names are case-sensitive UTF-8.
///
/// P is the number of points, N of prompts, T of tokens over all prompts, R of captured rows over all prompts.
/// u8, i32, i64: two's complement; f16, f32, f64: IEEE 754; bf16: HDF5's float with sign at bit 15, 8 bits of exponent
/// at 7 (bias 127), 7 of mantissa at 0, precision 16, size 2, which equals HDF5 2.0's H5T_FLOAT_BFLOAT16LE; S: a string
/// of fixed length, UTF-8, padded with NULs.
///
/// dataset                     type     shape        what
/// /prompts/cu_seqlens         i64      [N + 1]      prompt p is the tokens cu_seqlens[p] .. cu_seqlens[p + 1]
/// /prompts/input_ids          i32      [T]          token ids, prompts end to end; [0] where the input was hidden
///                                                   states and not tokens
/// /prompts/text_offsets       i64      [N + 1]      the text of prompt p is text_offsets[p] .. text_offsets[p + 1] of
/// /prompts/text_bytes         u8       [bytes]      this UTF-8. Both are there only where the input was text
/// /rows/cu_rows               i64      [N + 1]      prompt p has rows cu_rows[p] .. cu_rows[p + 1] of each capture
/// /rows/position              i32      [R]          which token of its prompt the row is; -1: the mean over them
/// /captures/<name>            bf16 f16 [R, W]       the value of that point, W its width, rows in input order whatever
///                             f32 f64               the order of execution; means are f32. The name is flat: dots and
///                             i32                   colons, never a slash. The links keep their order of creation,
///                                                   which is that of the forward pass
/// /completion                 u8       [P, N]       1: the point's rows of that prompt, and their statistics, are on
///                                                   disk; anything else: they are not
/// /statistics/points          S        [P]          the names of all points, in the order of the forward pass; one
///                                                   without a dataset in /captures has statistics only
/// /statistics/dtypes          S        [P]          "bfloat16", "float16", "float32", "float64" or "int32"
/// /statistics/widths          i64      [P]          elements in a row
/// /statistics/per_prompt/<m>  (below)  [P, N]       measure m of the point's rows of one prompt
/// /statistics/<m>             (below)  [P]          the same of all rows, prompts put together in order; at the end
/// /statistics/experts/points  S        [M]          those of the points that hold each token's chosen experts
///                                                   ("...mlp:topk_indices", i32). Without one there is no such group
/// /statistics/experts/counts  i64      [M, E]       how many of the point's rows chose each of the E experts of its
///                                                   layer; at the end
/// /statistics/{mean,std}      f64      [P]          sum / n, and sqrt(sum_of_squares / n - mean^2), over the n finite
///                                                   elements; at the end
/// /topk/ids                   i32      [R, K]       of a run that ranks its logits: the K largest, largest first, the
/// /topk/logits                f32      [R, K]       lower id first among equals. Other runs have no /topk
/// /topk/text_offsets          i64      [R * K + 1]  the text of entry i, row-major, is text_offsets[i] ..
/// /topk/text_bytes            u8       [256 R K]    text_offsets[i + 1] of this UTF-8, which ends there; a text over
///                                                   256 bytes is cut at a character's end. At the end
/// /end/finished               u8       [1]          1: the run is finished and everything above is there
/// /end/information            S        []           one JSON object of numbers and strings that were known only at
///                                                   the end (end time, seconds taken, ...): more attributes of "/"
///
/// "At the end": zeros until the run is finished.
///
/// The measures m, over the elements of the point's rows; NaN and infinite ones are counted and left out of all others.
/// Each row's sums are taken in the fixed tree of base/statistics.h, rows in order, prompts in order.
///   count                        i64   all elements; 0: nothing is known, and the other measures mean nothing
///   sum, sum_of_squares          f64   of the finite elements
///   min, max                     f64   of the finite elements; inf and -inf: there is none
///   abs_max                      f64   the largest magnitude of the finite elements; -1: there is none
///   abs_max_row, abs_max_column  i64   the first row, and in it the first column, that has abs_max; -1: none
///   nan_count, inf_count         i64   elements that are so
///   first_non_finite_row         i64   the first row with a NaN or infinite element; -1: none
/// A row number counts within the prompt's rows of that point in per_prompt, and over all prompts in the totals: there
/// it is the row in /captures. A point without a dataset has every token of a prompt as its rows, so that in the totals
/// its row number is the index into /prompts/input_ids.
///
/// Attributes. Each is a scalar i64, f64 or S. "/" has `format_version` (i64), and what is needed to repeat the run,
/// each as its own attribute. A part of a run (run --shard) has `shard` (S, "2/4"), `shard_first_prompt` and
/// `shard_whole_prompts` (i64) and `shard_whole_input` (S, a hash of all prompts), and holds its own prompts alone, counted
/// from 0. Each dataset in /captures has `semantics` (S): "residual_after_block", "post_final_norm",
/// "embedding", "logits", "module_input", "module_output" (see base/probe_point.h).
///
/// A writer in another language may leave out /completion and /end (everything is complete then), /statistics/dtypes
/// and widths (where every point has its dataset), per_prompt, the totals and experts (nothing is known), texts, /topk,
/// `semantics`.
///
/// Versions. A reader takes files of its own version and of lower ones. What an older reader can leave unread (another
/// attribute, group or dataset outside /captures) does not raise the version; anything else does.
///
/// What is promised. A run is made as ".<name>.partial.new" in the same folder: all metadata, prompts and rows are
/// written and all space allocated; it is synced and read back, and only then becomes "<name>.partial", a valid file
/// that HDF5 opens, with /completion all 0. From there on no HDF5 call changes it and no metadata changes: every write is
/// one of bytes inside a dataset, by pwrite at its offset, and space not yet written reads as zeros.
/// - After a crash of the process at any moment (kill -9 too): what is there under "<name>.partial" is valid, and every
///   entry of /completion that is 1 is true. A stale ".<name>.partial.new" means nothing and is used again.
/// - After a power cut: the same, because captures and statistics are synced (fdatasync) before the entries of
///   /completion that speak of them are written. Entries from after the last commit may be lost, and are done again.
/// - At the end: totals, texts and /end/information are written and synced, then /end/finished is written and synced,
///   then the file gets its final name in one rename and the folder is synced. Stopped anywhere in between, the file is
///   still "<name>.partial", and a resumed run does the rest. Until the rename a finished file of an earlier run stays
///   under the final name, untouched.
/// - When a call fails (a full disk, an error of the disk): the run ends, and the same holds as after a crash.
/// - Not promised: anything on a disk that says it synced and did not.
/// One run at a time writes a file: it holds a lock on it (Linux: of the open file description, F_OFD_SETLK, which
/// keeps no reader out). Where the file system has no locks, nothing guards.
// clang-format on

#include <string_view>

namespace layerprobe::store {

/// The version of this layout: attribute `format_version` of "/". A reader takes its own and lower ones.
inline constexpr int kFormatVersion = 1;

/// What is set aside in /topk/text_bytes for each token; a longer text is cut.
inline constexpr int kTopKTextBytes = 256;

/// The length of /end/information.
inline constexpr int kEndInformationBytes = 65536;

/// Appended to the file's name until the run is finished.
inline constexpr std::string_view kPartialSuffix = ".partial";

}  // namespace layerprobe::store
