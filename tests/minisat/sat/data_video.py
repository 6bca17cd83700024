"""Clips of a folder with their captions."""

import os

import decord
import torch
from torch.utils.data import Dataset


class SFTDataset(Dataset):
    def __init__(self, folder, video_size, max_num_frames):
        self.size, self.frames = video_size, max_num_frames
        self.clips = [
            os.path.join(root, name) for root, _, names in os.walk(folder) for name in names if name.endswith(".mp4")
        ]

    def __len__(self):
        return len(self.clips)

    def __getitem__(self, index):
        decord.bridge.set_bridge("torch")
        reader = decord.VideoReader(self.clips[index])
        frames = reader.get_batch(range(self.frames)).permute(0, 3, 1, 2).float() / 127.5 - 1
        frames = torch.nn.functional.interpolate(frames, size=tuple(self.size))
        caption = self.clips[index].replace(".mp4", ".txt").replace("videos", "labels")
        with open(caption) as text:
            return {"mp4": frames, "txt": text.readline().strip()}

    @classmethod
    def create_dataset_function(cls, path, args, **params):
        return cls(path, params["video_size"], params["max_num_frames"])
