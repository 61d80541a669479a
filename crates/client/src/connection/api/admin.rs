//! The APIs of administration.

use super::*;

// v0 says less about where a value comes from; no broker that we speak to needs it.
api!(
    DescribeConfigs, DescribeConfigsRequest -> DescribeConfigsResponse, 32, 1..=4,
    flexible_from(4, &[
        always(Fixed(4)),
        always(array(&[
            always(Fixed(2)),
            always(Text),
            always(Fixed(1)),
            always(Text),
            always(array(&[
                always(Text),
                always(Text),
                always(Fixed(3)),
                always(array(&[always(Text), always(Text), always(Fixed(1))])),
                since(3, Fixed(1)),
                since(3, Text),
            ])),
        ])),
    ])
);

api!(
    IncrementalAlterConfigs,
    IncrementalAlterConfigsRequest -> IncrementalAlterConfigsResponse, 44, 0..=1,
    flexible_from(1, &[
        always(Fixed(4)),
        always(array(&[always(Fixed(2)), always(Text), always(Fixed(1)), always(Text)])),
    ])
);

api!(
    CreatePartitions, CreatePartitionsRequest -> CreatePartitionsResponse, 37, 0..=3,
    flexible_from(2, &[
        always(Fixed(4)),
        always(array(&[always(Text), always(Fixed(2)), always(Text)])),
    ])
);

api!(
    DeleteRecords, DeleteRecordsRequest -> DeleteRecordsResponse, 21, 0..=2,
    flexible_from(2, &[
        always(Fixed(4)),
        always(array(&[always(Text), always(array(&[always(Fixed(14))]))])),
    ])
);

api!(
    DescribeGroups, DescribeGroupsRequest -> DescribeGroupsResponse, 15, 0..=6,
    flexible_from(5, &[
        since(1, Fixed(4)),
        always(array(&[
            always(Fixed(2)),
            since(6, Text),
            always(Text),
            always(Text),
            always(Text),
            always(Text),
            always(array(&[
                always(Text),
                since(4, Text),
                always(Text),
                always(Text),
                always(Blob),
                always(Blob),
            ])),
            since(3, Fixed(4)),
        ])),
    ])
);

/// Topics with their partitions.
const PLACES: Kind = Kind::Inline(Struct {
    fields: &[always(array(&[
        always(Fixed(16)),
        always(Text),
        always(Ints),
    ]))],
    tags: &[],
});

api!(
    ConsumerGroupDescribe, ConsumerGroupDescribeRequest -> ConsumerGroupDescribeResponse, 69, 0..=1,
    flexible_from(0, &[
        always(Fixed(4)),
        always(array(&[
            always(Fixed(2)),
            always(Text),
            always(Text),
            always(Text),
            always(Fixed(8)),
            always(Text),
            always(array(&[
                always(Text),
                always(Text),
                always(Text),
                always(Fixed(4)),
                always(Text),
                always(Text),
                always(Texts),
                always(Text),
                always(PLACES),
                always(PLACES),
                since(1, Fixed(1)),
            ])),
            always(Fixed(4)),
        ])),
    ])
);

api!(
    ListGroups, ListGroupsRequest -> ListGroupsResponse, 16, 0..=5,
    flexible_from(3, &[
        since(1, Fixed(4)),
        always(Fixed(2)),
        always(array(&[always(Text), always(Text), since(4, Text), since(5, Text)])),
    ])
);

api!(
    DeleteGroups, DeleteGroupsRequest -> DeleteGroupsResponse, 42, 0..=2,
    flexible_from(2, &[
        always(Fixed(4)),
        always(array(&[always(Text), always(Fixed(2))])),
    ])
);

api!(
    OffsetDelete, OffsetDeleteRequest -> OffsetDeleteResponse, 47, 0..=0,
    flexible_from(i16::MAX, &[
        always(Fixed(6)),
        always(array(&[always(Text), always(array(&[always(Fixed(6))]))])),
    ])
);

api!(
    DescribeCluster, DescribeClusterRequest -> DescribeClusterResponse, 60, 0..=2,
    flexible_from(0, &[
        always(Fixed(6)),
        always(Text),
        since(1, Fixed(1)),
        always(Text),
        always(Fixed(4)),
        always(array(&[
            always(Fixed(4)),
            always(Text),
            always(Fixed(4)),
            always(Text),
            since(2, Fixed(1)),
        ])),
        always(Fixed(4)),
    ])
);

#[cfg(test)]
mod tests {
    use super::super::tests::{check, text, topic};
    use super::*;
    use bytes::Bytes;

    #[test]
    fn the_layouts_of_settings_fit_every_version() {
        use m::describe_configs_response::{
            DescribeConfigsResourceResult, DescribeConfigsResult, DescribeConfigsSynonym,
        };
        use m::incremental_alter_configs_response::AlterConfigsResourceResponse;
        check::<m::DescribeConfigsRequest>(|version| {
            let synonym = DescribeConfigsSynonym::default().with_name(text());
            let mut config = DescribeConfigsResourceResult::default()
                .with_name(text())
                .with_value(Some(text()))
                .with_synonyms(vec![synonym; 2]);
            if version >= 3 {
                config = config.with_config_type(5).with_documentation(Some(text()));
            }
            let result = DescribeConfigsResult::default()
                .with_error_message(Some(text()))
                .with_resource_name(text())
                .with_configs(vec![config; 2]);
            m::DescribeConfigsResponse::default().with_results(vec![result; 2])
        });
        check::<m::IncrementalAlterConfigsRequest>(|_| {
            let altered = AlterConfigsResourceResponse::default()
                .with_error_message(Some(text()))
                .with_resource_name(text());
            m::IncrementalAlterConfigsResponse::default().with_responses(vec![altered; 2])
        });
    }

    #[test]
    fn the_layouts_of_partitions_fit_every_version() {
        use m::create_partitions_response::CreatePartitionsTopicResult;
        use m::delete_records_response::{DeleteRecordsPartitionResult, DeleteRecordsTopicResult};
        check::<m::CreatePartitionsRequest>(|_| {
            let created = CreatePartitionsTopicResult::default()
                .with_name(topic())
                .with_error_message(None);
            m::CreatePartitionsResponse::default().with_results(vec![created; 2])
        });
        check::<m::DeleteRecordsRequest>(|_| {
            let deleted = DeleteRecordsTopicResult::default()
                .with_name(topic())
                .with_partitions(vec![DeleteRecordsPartitionResult::default(); 2]);
            m::DeleteRecordsResponse::default().with_topics(vec![deleted; 2])
        });
    }

    #[test]
    fn the_layouts_of_groups_fit_every_version() {
        use m::delete_groups_response::DeletableGroupResult;
        use m::describe_groups_response::{DescribedGroup, DescribedGroupMember};
        use m::list_groups_response::ListedGroup;
        use m::offset_delete_response::{OffsetDeleteResponsePartition, OffsetDeleteResponseTopic};
        check::<m::DescribeGroupsRequest>(|version| {
            let member = DescribedGroupMember::default()
                .with_member_id(text())
                .with_group_instance_id((version >= 4).then(text))
                .with_client_id(text())
                .with_client_host(text())
                .with_member_metadata(Bytes::from_static(b"blob"))
                .with_member_assignment(Bytes::from_static(b"blob"));
            let group = DescribedGroup::default()
                .with_error_message((version >= 6).then(text))
                .with_group_id(m::GroupId(text()))
                .with_group_state(text())
                .with_protocol_type(text())
                .with_protocol_data(text())
                .with_members(vec![member; 2]);
            m::DescribeGroupsResponse::default().with_groups(vec![group; 2])
        });
        check::<m::ConsumerGroupDescribeRequest>(|version| {
            use m::consumer_group_describe_response as r;
            let topic = r::TopicPartitions::default()
                .with_topic_name(topic())
                .with_partitions(vec![1, 2]);
            let assignment = r::Assignment::default().with_topic_partitions(vec![topic; 2]);
            let mut member = r::Member::default()
                .with_member_id(text())
                .with_instance_id(Some(text()))
                .with_subscribed_topic_names(vec![super::super::tests::topic(); 2])
                .with_subscribed_topic_regex(Some(text()))
                .with_assignment(assignment.clone())
                .with_target_assignment(assignment);
            if version >= 1 {
                member = member.with_member_type(1);
            }
            let group = r::DescribedGroup::default()
                .with_error_message(Some(text()))
                .with_group_id(m::GroupId(text()))
                .with_assignor_name(text())
                .with_members(vec![member; 2]);
            m::ConsumerGroupDescribeResponse::default().with_groups(vec![group; 2])
        });
        check::<m::ListGroupsRequest>(|version| {
            let mut group = ListedGroup::default()
                .with_group_id(m::GroupId(text()))
                .with_protocol_type(text());
            if version >= 4 {
                group = group.with_group_state(text());
            }
            if version >= 5 {
                group = group.with_group_type(text());
            }
            m::ListGroupsResponse::default().with_groups(vec![group; 2])
        });
        check::<m::DeleteGroupsRequest>(|_| {
            let group = DeletableGroupResult::default().with_group_id(m::GroupId(text()));
            m::DeleteGroupsResponse::default().with_results(vec![group; 2])
        });
        check::<m::OffsetDeleteRequest>(|_| {
            let deleted = OffsetDeleteResponseTopic::default()
                .with_name(topic())
                .with_partitions(vec![OffsetDeleteResponsePartition::default(); 2]);
            m::OffsetDeleteResponse::default().with_topics(vec![deleted; 2])
        });
    }

    #[test]
    fn the_layout_of_the_cluster_fits_every_version() {
        use m::describe_cluster_response::DescribeClusterBroker;
        check::<m::DescribeClusterRequest>(|_| {
            let broker = DescribeClusterBroker::default()
                .with_host(text())
                .with_rack(Some(text()));
            m::DescribeClusterResponse::default()
                .with_error_message(Some(text()))
                .with_cluster_id(text())
                .with_brokers(vec![broker; 2])
        });
    }
}
