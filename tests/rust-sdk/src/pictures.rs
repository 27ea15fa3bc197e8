//! Pictures from one homeserver to the other, with thumbnails.

use matrix_sdk::{
    attachment::{AttachmentConfig, Thumbnail},
    media::{MediaFormat, MediaRequestParameters, MediaThumbnailSettings},
    ruma::{
        OwnedRoomId, UInt,
        api::client::media::get_content_thumbnail::v3::Method,
        events::{
            AnySyncMessageLikeEvent, AnySyncTimelineEvent,
            room::{MediaSource, message::MessageType},
        },
    },
};

use crate::{
    person::{Person, Result, ensure, equal, until},
    room,
};

/// A red square of 64 by 64.
const PICTURE: &[u8] = include_bytes!("red.png");

/// Bob sees Alice's pictures: in the encrypted room her own thumbnail, in the other his server's.
pub async fn seen(alice: &Person, bob: &Person, secret: &OwnedRoomId, open: &OwnedRoomId) -> Result<()> {
    let size = UInt::from(32_u32);
    for (room_id, encrypted) in [(secret, true), (open, false)] {
        let (data, content_type) = (b"a thumbnail of hers".to_vec(), "image/png".parse()?);
        let (height, width) = (size, size);
        let thumbnail = Thumbnail { data, content_type, height, width, size };
        let config = AttachmentConfig::new().thumbnail(Some(thumbnail).filter(|_| encrypted));
        let kind = "image/png".parse()?;
        let sent = room(alice, room_id)?.send_attachment("red.png", &kind, PICTURE.to_vec(), config).await?;
        let event_id = sent.event_id;
        let image = until("the picture", &[bob], async || {
            let Ok(event) = room(bob, room_id)?.event(&event_id, None).await else { return Ok(None) };
            let AnySyncTimelineEvent::MessageLike(AnySyncMessageLikeEvent::RoomMessage(message)) =
                event.raw().deserialize()?
            else {
                return Ok(None);
            };
            match message.as_original().map(|original| original.content.msgtype.clone()) {
                Some(MessageType::Image(image)) => Ok(Some(image)),
                other => Err(format!("not a picture: {other:?}").into()),
            }
        })
        .await?;
        equal(&matches!(image.source, MediaSource::Encrypted(_)), &encrypted)?;
        let media = bob.client.media();
        equal(&media.get_file(&image, false).await?.as_deref(), &Some(PICTURE))?;
        let small = MediaThumbnailSettings::with_method(Method::Crop, size, size);
        if encrypted {
            let seen = media.get_thumbnail(&image, small, false).await?;
            equal(&seen.as_deref(), &Some(b"a thumbnail of hers".as_slice()))?;
        } else {
            let asked =
                MediaRequestParameters { source: image.source, format: MediaFormat::Thumbnail(small) };
            let seen = media.get_media_content(&asked, false).await?;
            let head = seen.get(..4).unwrap_or_default();
            let known = head == &PICTURE[..4] || head.starts_with(b"\xff\xd8") || head == b"RIFF";
            ensure(known && seen != PICTURE, || format!("not a thumbnail: {head:?}"))?;
        }
    }
    Ok(())
}
