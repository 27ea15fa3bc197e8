//! Thumbnails: of images, and of what only looks like one.

mod common;

use std::io::Cursor;

use axum::body::Body;
use common::{Answer, Server, server};
use http::{Request, header};
use image::{DynamicImage, GenericImageView, ImageFormat};

async fn upload(server: &Server, token: &str, content: Vec<u8>) -> String {
    let request = Request::post("/_matrix/media/v3/upload")
        .header(header::AUTHORIZATION, format!("Bearer {token}"))
        .header(header::CONTENT_TYPE, "image/png");
    let answer = server.send(request.body(Body::from(content)).expect("request")).await.ok();
    answer["content_uri"].as_str().and_then(|uri| uri.strip_prefix("mxc://")).expect("address").to_owned()
}

async fn thumbnail(server: &Server, token: &str, file: &str, query: &str) -> Answer {
    server.get(&format!("/_matrix/client/v1/media/thumbnail/{file}?{query}"), token).await
}

fn encoded(image: &DynamicImage, format: ImageFormat) -> Vec<u8> {
    let mut bytes = Cursor::new(Vec::new());
    image.write_to(&mut bytes, format).expect("encodes");
    bytes.into_inner()
}

fn dimensions(answer: &Answer) -> (u32, u32) {
    image::load_from_memory(&answer.bytes).expect("an image").dimensions()
}

#[tokio::test]
async fn images_of_every_kind_are_scaled_and_cropped() {
    let server = server();
    let alice = server.register("alice").await;
    let wide = DynamicImage::new_rgb8(1_000, 500);
    for format in [ImageFormat::Png, ImageFormat::Jpeg, ImageFormat::Gif, ImageFormat::WebP] {
        let file = upload(&server, &alice, encoded(&wide, format)).await;
        let scaled = thumbnail(&server, &alice, &file, "width=300&height=200&method=scale").await;
        assert_eq!(dimensions(&scaled), (320, 160), "{format:?}");
        let cropped = thumbnail(&server, &alice, &file, "width=90&height=90&method=crop&animated=true").await;
        assert_eq!(dimensions(&cropped), (96, 96), "{format:?}");
        assert_eq!(cropped.head.headers[header::CONTENT_DISPOSITION], "inline");
        let again = thumbnail(&server, &alice, &file, "width=96&height=96&method=crop").await;
        assert_eq!(again.bytes, cropped.bytes);
    }
    let clear = upload(&server, &alice, encoded(&DynamicImage::new_rgba8(500, 500), ImageFormat::Png)).await;
    let small = thumbnail(&server, &alice, &clear, "width=32&height=32").await;
    assert_eq!(small.head.headers[header::CONTENT_TYPE], "image/png");
    assert_eq!(image::load_from_memory(&small.bytes).expect("an image").get_pixel(0, 0).0[3], 0);
}

#[tokio::test]
async fn what_is_small_or_no_image_is_sent_as_it_is() {
    let server = server();
    let alice = server.register("alice").await;
    let tiny = encoded(&DynamicImage::new_rgb8(20, 10), ImageFormat::Png);
    let mut broken = encoded(&DynamicImage::new_rgb8(1_000, 1_000), ImageFormat::Png);
    broken.truncate(200);
    for content in [tiny, b"no image".to_vec(), broken, Vec::new()] {
        let file = upload(&server, &alice, content.clone()).await;
        for _again in 0..2 {
            assert_eq!(thumbnail(&server, &alice, &file, "width=96&height=96").await.bytes, content);
        }
    }
    let file = upload(&server, &alice, b"x".to_vec()).await;
    thumbnail(&server, &alice, &file, "width=96").await.is_error(400, "M_MISSING_PARAM");
    for odd in ["width=-1&height=1", "width=1&height=x", "width=1&height=1&method=fold"] {
        thumbnail(&server, &alice, &file, odd).await.is_error(400, "M_INVALID_PARAM");
    }
    let path = format!("/_matrix/client/v1/media/thumbnail/{file}?width=1&height=1");
    server.ask("GET", &path, None, None).await.is_error(401, "M_MISSING_TOKEN");
}

/// A PNG that says it is 60,000 by 60,000 pixels large: ten gigabytes, if one believed it.
#[tokio::test]
async fn a_bomb_is_not_unpacked() {
    let server = server();
    let alice = server.register("alice").await;
    let mut bomb = encoded(&DynamicImage::new_rgb8(100, 100), ImageFormat::Png);
    bomb[16..20].copy_from_slice(&60_000_u32.to_be_bytes());
    bomb[20..24].copy_from_slice(&60_000_u32.to_be_bytes());
    let file = upload(&server, &alice, bomb.clone()).await;
    assert_eq!(thumbnail(&server, &alice, &file, "width=96&height=96").await.bytes, bomb);
    // Honest, and more than is unpacked.
    let large = encoded(&DynamicImage::new_luma8(5_100, 5_100), ImageFormat::Png);
    let file = upload(&server, &alice, large.clone()).await;
    assert_eq!(thumbnail(&server, &alice, &file, "width=96&height=96").await.bytes, large);
}
