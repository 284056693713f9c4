"""Reads the files that layerprobe and scripts/capture_hf.py write, without copying. Needs h5py and numpy.

    import layerprobe_h5
    run = layerprobe_h5.open("smollm2-extract-all.h5")
    run["model.layers.17"]                 # numpy [rows, width] on the file's pages: nothing is read until it is used
    run.torch("model.layers.17")           # the same as a torch tensor, bf16 as torch.bfloat16, no copy either
    run.prompt(3)["model.layers.17"]       # the rows of one prompt
    run.prompt(3).input_ids, run.prompt(3).text, run.prompt(3).position
    run.statistics("model.layers.17")      # mean, std, min, max, abs_max, ... over all prompts
    run.points, run.attributes, run.is_finished

bf16 is ml_dtypes.bfloat16 where that package is installed, else uint16 with the same bits; float32() widens either.
A file that is still being written ("NAME.partial") opens too: is_complete() and completion say what is there.

The layout is specified in src/store/format.h.
"""
import json
import pathlib

import h5py
import numpy as np

try:
    from ml_dtypes import bfloat16
except ImportError:
    bfloat16 = None

FORMAT_VERSION = 1


def open(path):
    """The run in the file at `path`, finished or partial. The file is not kept open by HDF5. A ValueError says what is wrong
    with a file that is damaged, or of something else."""
    try:
        return Run(path)
    except (ArithmeticError, AttributeError, LookupError, RuntimeError, TypeError, json.JSONDecodeError) as problem:
        raise ValueError(f"{path}: is damaged, or no file of captures: {problem}") from problem
    except OSError as problem:
        if problem.errno is not None:  # of the system: no such file
            raise
        raise ValueError(f"{path}: is no HDF5 file, or damaged: {problem}") from problem


class Run:
    def __init__(self, path):
        self.path = pathlib.Path(path)
        self._size = self.path.stat().st_size
        with h5py.File(self.path, "r", locking=False) as file:
            self._where = {}  # path in the file -> (offset, dtype, shape, is it bf16)
            file.visititems(self._note)
            self.attributes = {name: _plain(value) for name, value in file.attrs.items()}
        version = self.attributes.get("format_version")
        if not isinstance(version, int) or version > FORMAT_VERSION:
            raise ValueError(f"{path}: format_version is {version}; this script reads up to {FORMAT_VERSION}")
        self.points = _strings(self._array("statistics/points"))  # in the order of the forward pass
        self.input_ids = self._array("prompts/input_ids")  # [tokens], prompts end to end
        self.cu_seqlens = self._array("prompts/cu_seqlens")  # prompt p is input_ids[cu_seqlens[p]:cu_seqlens[p + 1]]
        self.cu_rows = self._array("rows/cu_rows")  # prompt p has rows cu_rows[p]:cu_rows[p + 1] of a capture
        self.position = self._array("rows/position")  # which token of its prompt a row is; -1: the mean
        shape = (len(self.points), self.num_prompts)
        # bool [points, prompts]: what was there when the file was opened
        self.completion = np.asarray(self._array("completion", np.ones(shape, np.uint8))) == 1
        self.is_finished = bool(self._array("end/finished", np.array([self.completion.all()]))[0] == 1)
        if self.is_finished and "end/information" in self._where:
            self.attributes.update(json.loads(_strings(self._array("end/information"))[0] or "{}"))
        self._expect_one_size()

    def _expect_one_size(self):
        num_rows = len(self.position)
        num_tokens = len(self.input_ids) or self.cu_seqlens[-1]  # of hidden states there are no ids
        for path, ends, total in (("prompts/cu_seqlens", self.cu_seqlens, num_tokens), ("rows/cu_rows", self.cu_rows, num_rows)):
            if ends.ndim != 1 or ends[0] != 0 or ends[-1] != total or (np.diff(ends) < 0).any():
                raise ValueError(f"{self.path}: /{path}: does not rise from 0 to {total}")
        if len(self.cu_rows) != len(self.cu_seqlens):
            raise ValueError(f"{self.path}: /rows/cu_rows: is of {len(self.cu_rows) - 1} prompts, not {self.num_prompts}")
        if self.completion.shape != (len(self.points), self.num_prompts):
            raise ValueError(f"{self.path}: /completion: is {self.completion.shape}, not {len(self.points), self.num_prompts}")
        for name in self.keys():
            shape = self._where["captures/" + name][2]
            if len(shape) != 2 or shape[0] != num_rows:
                raise ValueError(f"{self.path}: /captures/{name}: is {shape}, not of {num_rows} rows")

    @property
    def num_prompts(self):
        return len(self.cu_seqlens) - 1

    def keys(self):
        """The points that have a dataset, in the order of the forward pass."""
        return [name for name in self.points if "captures/" + name in self._where]

    def __iter__(self):
        return iter(self.keys())

    def __contains__(self, name):
        return name in self.points and "captures/" + name in self._where

    def __getitem__(self, name):
        """[rows, width] of a point, read-only, on the file's pages."""
        if name not in self:
            raise KeyError(f"{self.path}: no capture {name!r}; there are {', '.join(self.keys())}")
        return self._array("captures/" + name)

    def torch(self, name):
        """The same as a torch tensor on the same pages. Writing to it changes this process's memory, not the file."""
        import torch
        if name not in self:
            self[name]  # its KeyError
        _, _, _, is_bf16 = self._where["captures/" + name]
        array = self._array("captures/" + name, mode="c")
        return torch.from_numpy(array.view(np.uint16)).view(torch.bfloat16) if is_bf16 else torch.from_numpy(array)

    def float32(self, name):
        """A copy of a point as float32, exact for bf16 and f16."""
        array = self[name]
        if not self._where["captures/" + name][3]:
            return array.astype(np.float32)
        return (array.view(np.uint16).astype(np.uint32) << 16).view(np.float32)

    def prompt(self, index):
        return Prompt(self, range(self.num_prompts)[index])

    def prompts(self):
        return [self.prompt(index) for index in range(self.num_prompts)]

    def is_complete(self, name, prompt):
        """Are the point's rows of that prompt there?"""
        return bool(self.completion[self.points.index(name), prompt])

    def statistics(self, name):
        """A dict of the measures of a point over all prompts; of a finished run."""
        if not self.is_finished:
            raise ValueError(f"{self.path}: the run has not finished; statistics_of_prompt() gives what is there")
        return self._measures("statistics/", (self.points.index(name),))

    def statistics_of_prompt(self, name, prompt):
        """The same over the rows of one prompt, row numbers counted from its first."""
        if not self.is_complete(name, prompt):
            raise ValueError(f"{self.path}: {name} is not complete for prompt {prompt}")
        return self._measures("statistics/per_prompt/", (self.points.index(name), prompt))

    def expert_counts(self, name):
        """Of a "...mlp:topk_indices" point of a finished run: how many rows chose each expert. None: nothing is known."""
        if not self.is_finished or "statistics/experts/points" not in self._where:
            return None
        names = _strings(self._array("statistics/experts/points"))
        return self._array("statistics/experts/counts")[names.index(name)] if name in names else None

    def top_k(self):
        """Of a run with /topk: ids [rows, k], logits [rows, k], texts [rows][k]."""
        ids, offsets = self._array("topk/ids"), self._array("topk/text_offsets")
        data = self._array("topk/text_bytes").tobytes()
        texts = [data[begin:end].decode("utf-8", "replace") for begin, end in zip(offsets[:-1], offsets[1:])]
        k = ids.shape[1]
        return ids, self._array("topk/logits"), [texts[row * k:(row + 1) * k] for row in range(len(ids))]

    def _measures(self, prefix, index):
        names = [path[len(prefix):] for path in self._where if path.startswith(prefix) and "/" not in path[len(prefix):]]
        return {name: self._array(prefix + name)[index].item()
                for name in names if name not in ("points", "dtypes", "widths")}

    def _note(self, path, item):
        if not isinstance(item, h5py.Dataset):
            return
        kind = item.id.get_type()
        if kind.detect_class(h5py.h5t.VLEN) or (kind.get_class() == h5py.h5t.STRING and kind.is_variable_str()):
            raise ValueError(f"{self.path}: /{path}: its type has a variable length; only fixed ones are read")
        is_bf16 = (kind.get_class() == h5py.h5t.FLOAT and kind.get_size() == 2
                   and kind.get_fields() == (15, 7, 8, 0, 7) and kind.get_ebias() == 127)
        offset = item.id.get_offset()
        if item.size and offset is None:
            raise ValueError(f"{self.path}: /{path}: is not contiguous; rewrite it: h5repack -l CONTI -f NONE OLD NEW")
        dtype = np.dtype(np.uint16 if bfloat16 is None else bfloat16) if is_bf16 else item.dtype
        if item.size and offset + item.size * dtype.itemsize > self._size:
            raise ValueError(f"{self.path}: /{path}: ends behind the file's end: it was cut short")
        self._where[path] = (offset, dtype, item.shape, is_bf16)

    def _array(self, path, default=None, mode="r"):
        if path not in self._where:
            if default is not None:
                return default
            raise ValueError(f"{self.path}: /{path}: is missing")
        offset, dtype, shape, _ = self._where[path]
        if 0 in shape:
            return np.zeros(shape, dtype)
        array = np.memmap(self.path, dtype, mode, offset, shape or (1,))
        return array if array.flags.aligned else np.array(array)  # only small datasets lie where they fall


class Prompt:
    """One prompt of a run: run.prompt(3)["model.layers.17"] are its rows of that point."""

    def __init__(self, run, index):
        self.run, self.index = run, index
        self.tokens = slice(int(run.cu_seqlens[index]), int(run.cu_seqlens[index + 1]))
        self.rows = slice(int(run.cu_rows[index]), int(run.cu_rows[index + 1]))

    def __getitem__(self, name):
        return self.run[name][self.rows]

    def torch(self, name):
        return self.run.torch(name)[self.rows]

    @property
    def input_ids(self):
        return self.run.input_ids[self.tokens]

    @property
    def position(self):
        """Which token of the prompt each row is; -1: the mean."""
        return self.run.position[self.rows]

    @property
    def text(self):
        """None where the input was no text."""
        if "prompts/text_offsets" not in self.run._where:
            return None
        begin, end = self.run._array("prompts/text_offsets")[self.index:self.index + 2]
        return self.run._array("prompts/text_bytes")[begin:end].tobytes().decode("utf-8", "replace")

    def is_complete(self, name):
        return self.run.is_complete(name, self.index)


def _strings(array):
    return [value.decode("utf-8", "replace") for value in np.atleast_1d(array).tolist()]


def _plain(value):
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace")
    return value.item() if isinstance(value, np.generic) else value
