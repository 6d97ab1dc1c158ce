"""Embedders: the shapes of Sec. 3.1 at every size, and what their switches do."""

import pytest
import tiny
import torch

from uniface.embedders import AttributeEmbedder, IdentityEmbedder


@pytest.mark.parametrize("size", [32, 64, 128])
def test_shapes_of_the_paper(size):
    config = tiny.config(image_size=size, channel_base=1024)
    image = tiny.images(1, size=size)
    f, features = IdentityEmbedder(config)(image)
    z_t, fdf = AttributeEmbedder(config)(image)
    assert f.shape == (1, 32, size // 8, size // 8)  # C x H/8 x W/8
    assert {s: tuple(x.shape[1:]) for s, x in features.items()} == {
        s: (config.width(size // s), size // s, size // s) for s in (1, 2, 4, 8)
    }
    assert z_t.shape == (1, 16)
    assert fdf.shape == (1, 2, size // 4, size // 4)  # 2 x H/4 x W/4
    assert fdf.abs().max() < 1


@pytest.mark.parametrize("stride", [2, 4, 16])
def test_feature_stride(stride):
    config = tiny.config(image_size=64, channel_base=1024, feature_stride=stride, skip_strides=())
    f, _ = IdentityEmbedder(config)(tiny.images(1, size=64))
    assert f.shape[-1] == 64 // stride


def test_the_fdf_depends_on_the_image_only_through_z_t():
    embedder = AttributeEmbedder(tiny.config())
    z_t, fdf = embedder(tiny.images())
    assert torch.equal(embedder.decode(z_t), fdf)
    assert not torch.allclose(fdf[0], fdf[1])


@pytest.mark.parametrize("base", [1, 2, 4])
def test_attribute_base_keeps_the_shapes_and_the_way_through_z_t(base):
    embedder = AttributeEmbedder(tiny.config(attribute_base=base)).eval()
    assert embedder.base == base
    image = tiny.images()
    z_t, fdf = embedder(image)
    usual = AttributeEmbedder(tiny.config())(image)
    assert (z_t.shape, fdf.shape) == tuple(one.shape for one in usual)
    assert torch.equal(embedder.decode(z_t), fdf)


@pytest.mark.parametrize("base", [1, 4])
def test_with_the_source_the_fdf_is_of_both_and_z_t_of_the_target(base):
    embedder = AttributeEmbedder(tiny.config(attribute_base=base, fdf_source=True)).eval()
    source, target = tiny.images(2, seed=1), tiny.images(2, seed=2)
    z_t, fdf = embedder(target, source)
    assert torch.allclose(z_t, embedder.encode(target), atol=1e-5) and z_t.shape == (2, 16)
    assert fdf.shape == (2, 2, 8, 8)
    z_s = embedder.encode(source)
    assert torch.allclose(fdf, embedder.decode(torch.cat([z_t, z_s], 1)), atol=1e-5)
    assert not torch.allclose(fdf, embedder(target, source.flip(0))[1])


@pytest.mark.parametrize("stride", [1, 2])
def test_a_finer_fdf(stride):
    embedder = AttributeEmbedder(tiny.config(fdf_stride=stride, attribute_base=4))
    assert embedder(tiny.images())[1].shape == (2, 2, 32 // stride, 32 // stride)


def test_fdf_identity_init_starts_near_no_displacement():
    small = AttributeEmbedder(tiny.config(fdf_identity_init=True, attribute_norm="group"))(tiny.images())[1]
    usual = AttributeEmbedder(tiny.config())(tiny.images())[1]
    assert 0 < small.abs().mean() < 0.02 < usual.abs().mean()


def test_instance_norm_forgets_contrast_and_group_norm_of_the_first_layer_does_not_mix_samples():
    x = tiny.images(3)
    for norm in ("instance", "group"):
        embedder = AttributeEmbedder(tiny.config(attribute_norm=norm)).eval()
        assert torch.allclose(embedder.encode(x)[:1], embedder.encode(x[:1]), atol=1e-5)


def test_coordinates_tell_left_from_right():
    flat = torch.zeros(1, 3, 32, 32)
    with_coordinates = IdentityEmbedder(tiny.config(coordinates=True))(flat)[1][1]
    without = IdentityEmbedder(tiny.config())(flat)[1][1]
    assert with_coordinates.std(dim=3).max() > 0.1 and without.std(dim=3).max() == 0
